//! Text out of tokens one by one, never in the middle of a character.

use super::TextTokenizer;
use crate::error::Result;

/// Decodes an answer as it grows.
///
/// A token alone has no text: a character may take several byte tokens, and some tokenizers drop the space before the
/// first word. So each new token is decoded behind the one or few that were given out last, and what it adds is held
/// back while it ends inside a character.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    /// From here the ids are decoded; those up to `given` are context.
    context: usize,
    /// The text of the ids before this one is given out.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// Starts with no text.
    pub fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, given: 0 }
    }

    /// The text that `id` makes whole; often none. Special tokens have none.
    ///
    /// # Errors
    /// [`TrainerError::Encode`](crate::TrainerError::Encode) where the tokenizer can't decode.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let new = self.new_text()?;
        if new.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        (self.context, self.given) = (self.given, self.ids.len());
        Ok(new)
    }

    /// What was held back: bytes that never became a character are U+FFFD.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(self) -> Result<String> {
        self.new_text()
    }

    fn new_text(&self) -> Result<String> {
        // Decoders concatenate: old text is a prefix, but for a character that is not whole, and that was held back.
        let old = self.tokenizer.decode_answer(&self.ids[self.context..self.given])?;
        let all = self.tokenizer.decode_answer(&self.ids[self.context..])?;
        Ok(all.strip_prefix(&old).unwrap_or_default().to_owned())
    }
}
