use super::DatasetError;
use crate::plugins::bindings::formatting::{ChatRole, TrainingRecord};
use crate::plugins::bindings::types::TrainingMethod;

/// Checks what the formatter made of a dataset: there is something, and every record has the fields of a shape that
/// the method trains. A field of white space alone is a missing one.
///
/// # Errors
/// [`DatasetError::Empty`], [`DatasetError::MissingFields`] or [`DatasetError::ResponseStart`].
pub fn validate(records: &[TrainingRecord], method: TrainingMethod) -> Result<(), DatasetError> {
    if records.is_empty() {
        return Err(DatasetError::Empty);
    }
    for (index, record) in records.iter().enumerate() {
        let got: Vec<_> = fields(record).into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        let expected = expected_fields(record, method);
        let missing: Vec<_> = expected.iter().copied().filter(|field| !got.contains(field)).collect();
        if !missing.is_empty() {
            return Err(DatasetError::MissingFields { dataset: dataset_name(method), index, missing, expected, got });
        }
        if let TrainingRecord::Text(record) = record
            && let Some(start) = record.response_start
            && record.text.get(start as usize..).is_none_or(|response| response.trim().is_empty())
        {
            return Err(DatasetError::ResponseStart { index, start, bytes: record.text.len() });
        }
    }
    Ok(())
}

fn dataset_name(method: TrainingMethod) -> &'static str {
    match method {
        TrainingMethod::Sft => "SFT",
        TrainingMethod::Dpo => "DPO",
        TrainingMethod::Triplet => "embedding",
    }
}

/// SFT trains three shapes: a record is held to its own, and one of another method to the first.
fn expected_fields(record: &TrainingRecord, method: TrainingMethod) -> Vec<&'static str> {
    match (method, record) {
        (TrainingMethod::Dpo, _) => vec!["prompt", "chosen", "rejected"],
        (TrainingMethod::Triplet, _) => vec!["anchor", "positive", "negative"],
        (TrainingMethod::Sft, TrainingRecord::PromptCompletion(_) | TrainingRecord::Chat(_)) => {
            fields(record).into_iter().map(|(name, _)| name).collect()
        }
        (TrainingMethod::Sft, _) => vec!["text"],
    }
}

/// The fields of a record's shape, and whether they hold something.
fn fields(record: &TrainingRecord) -> Vec<(&'static str, bool)> {
    let there = |text: &str| !text.trim().is_empty();
    match record {
        TrainingRecord::Text(record) => vec![("text", there(&record.text))],
        TrainingRecord::PromptCompletion(record) => {
            vec![("prompt", there(&record.prompt)), ("completion", there(&record.completion))]
        }
        TrainingRecord::Chat(messages) => {
            let answered = messages.iter().any(|m| m.role == ChatRole::Assistant && there(&m.content));
            vec![("messages", !messages.is_empty()), ("assistant message", answered)]
        }
        TrainingRecord::Preference(record) => vec![
            ("prompt", there(&record.prompt)),
            ("chosen", there(&record.chosen)),
            ("rejected", there(&record.rejected)),
        ],
        TrainingRecord::ChatPreference(record) => vec![
            ("prompt", record.prompt.iter().any(|m| there(&m.content))),
            ("chosen", there(&record.chosen)),
            ("rejected", there(&record.rejected)),
        ],
        TrainingRecord::Triplet(record) => vec![
            ("anchor", there(&record.anchor)),
            ("positive", there(&record.positive)),
            ("negative", there(&record.negative)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::bindings::formatting::{
        ChatMessage, ChatPreference, PreferenceRecord, PromptCompletion, TextRecord, TripletRecord,
    };

    fn text(text: &str, response_start: Option<u32>) -> TrainingRecord {
        TrainingRecord::Text(TextRecord { text: text.to_owned(), response_start })
    }

    fn preference(prompt: &str, chosen: &str, rejected: &str) -> TrainingRecord {
        let [prompt, chosen, rejected] = [prompt, chosen, rejected].map(str::to_owned);
        TrainingRecord::Preference(PreferenceRecord { prompt, chosen, rejected })
    }

    fn message(records: &[TrainingRecord], method: TrainingMethod) -> String {
        validate(records, method).unwrap_err().to_string()
    }

    #[test]
    fn empty_dataset_has_the_known_text() {
        assert_eq!(
            message(&[], TrainingMethod::Sft),
            "Cannot train with empty dataset. No training examples available after formatting."
        );
    }

    #[test]
    fn missing_dpo_fields_have_the_known_text() {
        let mut records = vec![preference("p", "c", "r"); 5];
        records.push(preference("p", "", " \n"));
        assert_eq!(
            message(&records, TrainingMethod::Dpo),
            "Invalid DPO dataset at index 5: missing required fields ['chosen', 'rejected']. \
             Expected fields: ['prompt', 'chosen', 'rejected'], got: ['prompt']"
        );
    }

    #[test]
    fn a_record_of_another_method_is_told_by_its_fields() {
        assert_eq!(
            message(&[preference("p", "c", "r")], TrainingMethod::Sft),
            "Invalid SFT dataset at index 0: missing required fields ['text']. \
             Expected fields: ['text'], got: ['prompt', 'chosen', 'rejected']"
        );
        assert_eq!(
            message(&[text("t", None)], TrainingMethod::Triplet),
            "Invalid embedding dataset at index 0: missing required fields ['anchor', 'positive', 'negative']. \
             Expected fields: ['anchor', 'positive', 'negative'], got: ['text']"
        );
    }

    #[test]
    fn chat_without_an_answer_is_invalid() {
        let question = ChatMessage { role: ChatRole::User, content: "q".to_owned() };
        assert_eq!(
            message(&[TrainingRecord::Chat(vec![question])], TrainingMethod::Sft),
            "Invalid SFT dataset at index 0: missing required fields ['assistant message']. \
             Expected fields: ['messages', 'assistant message'], got: ['messages']"
        );
    }

    #[test]
    fn a_response_start_outside_the_text_or_inside_a_character_is_invalid() {
        for start in [3, 2, 9] {
            assert_eq!(
                validate(&[text("é\n", Some(0)), text("aé\n", Some(start))], TrainingMethod::Sft),
                Err(DatasetError::ResponseStart { index: 1, start, bytes: 4 })
            );
        }
    }

    #[test]
    fn every_shape_of_a_method_is_accepted() {
        let completion = PromptCompletion { prompt: "p".to_owned(), completion: "c".to_owned() };
        let answer = ChatMessage { role: ChatRole::Assistant, content: "a".to_owned() };
        let sft = [
            text("é response", Some(3)),
            TrainingRecord::PromptCompletion(completion),
            TrainingRecord::Chat(vec![answer]),
        ];
        assert_eq!(validate(&sft, TrainingMethod::Sft), Ok(()));
        assert_eq!(validate(&[preference("p", "c", "r")], TrainingMethod::Dpo), Ok(()));
        let [prompt, chosen, rejected] = ["p", "c", "r"].map(str::to_owned);
        let prompt = vec![ChatMessage { role: ChatRole::User, content: prompt }];
        let chat = TrainingRecord::ChatPreference(ChatPreference { prompt, chosen, rejected });
        assert_eq!(validate(&[chat], TrainingMethod::Dpo), Ok(()));
        let [anchor, positive, negative] = ["a", "p", "n"].map(str::to_owned);
        let triplet = TrainingRecord::Triplet(TripletRecord { anchor, positive, negative });
        assert_eq!(validate(&[triplet], TrainingMethod::Triplet), Ok(()));
    }
}
