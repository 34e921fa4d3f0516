//! Triplets to token ids, as sentence-transformers tokenises texts.

use super::Skipped;
use crate::formats::TextTokenizer;
use crate::method::TripletExample;
use crate::{Result, TrainerError};

/// Three texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TripletRecord {
    /// What is searched with.
    pub anchor: String,
    /// What should be near it.
    pub positive: String,
    /// What should be far from it.
    pub negative: String,
}

/// The triplets of a set of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncodedTriplets {
    /// In the order of the records.
    pub examples: Vec<TripletExample>,
    /// For each triplet, the index of its record.
    pub record_index: Vec<usize>,
    /// The other records.
    pub skipped: Vec<Skipped>,
    /// How many triplets have a text whose end was cut.
    pub n_truncated: usize,
}

const EMPTY: &str = "empty text in a triplet";
const EQUAL: &str = "positive equals negative";

/// Tokenises `records`. A text of more than `max_length` tokens, special ones included, loses its end; the special
/// tokens stay.
///
/// # Errors
/// [`TrainerError::Encode`] where the tokenizer refuses a text; [`TrainerError::Config`] where `max_length` leaves no
/// room beside the special tokens.
pub fn encode_triplets(
    tokenizer: &TextTokenizer,
    records: &[TripletRecord],
    max_length: usize,
) -> Result<EncodedTriplets> {
    let mut encoded = EncodedTriplets::default();
    for (index, TripletRecord { anchor, positive, negative }) in records.iter().enumerate() {
        let mut truncated = false;
        let mut encode = |text: &str| -> Result<Vec<u32>> {
            let (ids, cut) = tokenizer.encode_within(text, max_length).map_err(|error| match error {
                TrainerError::Encode { what, .. } => TrainerError::Encode { index, what },
                other => other,
            })?;
            truncated |= cut;
            Ok(ids)
        };
        if [anchor, positive, negative].iter().any(|text| text.trim().is_empty()) {
            encoded.skipped.push(Skipped { index, reason: EMPTY });
            continue;
        }
        let example =
            TripletExample { anchor: encode(anchor)?, positive: encode(positive)?, negative: encode(negative)? };
        // A tokenizer without special tokens may have none for a text that it normalises away.
        if [&example.anchor, &example.positive, &example.negative].iter().any(|ids| ids.is_empty()) {
            encoded.skipped.push(Skipped { index, reason: EMPTY });
            continue;
        }
        // To the model, texts are equal where their tokens are: after lower-casing, after truncation.
        if example.positive == example.negative {
            encoded.skipped.push(Skipped { index, reason: EQUAL });
            continue;
        }
        encoded.n_truncated += usize::from(truncated);
        encoded.examples.push(example);
        encoded.record_index.push(index);
    }
    Ok(encoded)
}
