//! What a server takes of OpenAI's chat completions. Servers agree on the messages, and on little else.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::synthetic::prompt::Prompt;

/// How requests are written: as the API has it, until the server says that it does not take something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dialect {
    format: Format,
    /// `max_completion_tokens`, which newer models of OpenAI want, instead of `max_tokens`.
    completion_tokens: bool,
    temperature: bool,
    seed: bool,
}

/// How an answer is held to its schema, the strictest first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    /// OpenAI, vLLM, llama.cpp.
    JsonSchema,
    /// llama-cpp-python.
    JsonObjectWithSchema,
    JsonObject,
    /// By what the prompt says alone.
    Free,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { format: Format::JsonSchema, completion_tokens: false, temperature: true, seed: true }
    }
}

impl Dialect {
    /// The body of a request, as text.
    pub(super) fn body(self, model: &str, prompt: &Prompt, temperature: f32, max_tokens: u64) -> String {
        let schema = &prompt.schema;
        let format = match self.format {
            Format::JsonSchema => Some(format!(
                "{{\"type\":\"json_schema\",\"json_schema\":{{\"name\":\"examples\",\"strict\":true,\"schema\":{schema}}}}}"
            )),
            Format::JsonObjectWithSchema => Some(format!("{{\"type\":\"json_object\",\"schema\":{schema}}}")),
            Format::JsonObject => Some("{\"type\":\"json_object\"}".to_owned()),
            Format::Free => None,
        };
        let body = Body {
            model,
            messages: [
                Message { role: "system", content: &prompt.system },
                Message { role: "user", content: &prompt.user },
            ],
            temperature: self.temperature.then_some(temperature),
            seed: self.seed.then_some(prompt.seed),
            max_tokens: (!self.completion_tokens).then_some(max_tokens),
            max_completion_tokens: self.completion_tokens.then_some(max_tokens),
            response_format: format.and_then(|format| RawValue::from_string(format).ok()),
        };
        serde_json::to_string(&body).unwrap_or_default() // texts and numbers only: nothing of it can fail
    }

    /// What else to try where a request in this dialect was refused with these words; `None` where they are about
    /// something that is not ours to leave out.
    pub(super) fn after(self, refusal: &str) -> Option<Self> {
        let refusal = refusal.to_lowercase();
        let about = |words: &[&str]| words.iter().any(|word| refusal.contains(word));
        if !self.completion_tokens && about(&["max_completion_tokens"]) {
            return Some(Self { completion_tokens: true, ..self });
        }
        if self.temperature && about(&["temperature"]) {
            return Some(Self { temperature: false, ..self });
        }
        if about(&["response_format", "json_schema", "json_object", "schema", "grammar"]) {
            let format = match self.format {
                Format::JsonSchema => Format::JsonObjectWithSchema,
                Format::JsonObjectWithSchema => Format::JsonObject,
                Format::JsonObject => Format::Free,
                Format::Free => return None,
            };
            return Some(Self { format, ..self });
        }
        (self.seed && about(&["seed"])).then_some(Self { seed: false, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_does_not_take_is_left_out_step_by_step_and_nothing_else() {
        let first = Dialect::default();
        let schema = "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type')}]";
        let mut formats = vec![first.format];
        let mut dialect = first;
        while let Some(next) = dialect.after(schema) {
            dialect = next;
            formats.push(dialect.format);
        }
        assert_eq!(formats, [Format::JsonSchema, Format::JsonObjectWithSchema, Format::JsonObject, Format::Free]);
        let tokens = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        assert_eq!(first.after(tokens), Some(Dialect { completion_tokens: true, ..first }));
        let temperature = "Unsupported value: 'temperature' does not support 0.9 with this model.";
        assert_eq!(first.after(temperature), Some(Dialect { temperature: false, ..first }));
        assert_eq!(first.after("extra fields not permitted: seed"), Some(Dialect { seed: false, ..first }));
        assert_eq!(first.after("this model's maximum context length is 512 tokens"), None);
    }
}
