//! Chat templates: the Jinja that Hugging Face models carry, rendered as `apply_chat_template` does.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Renders a template with its model's special tokens. Tools and documents are none, as without them in Python.
pub(super) fn render(
    template: &str,
    messages: &[ChatMessage],
    special_tokens: &[(&'static str, Option<&str>)],
    add_generation_prompt: bool,
) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // Templates call Python's string methods: `content.strip()`.
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });

    let message = |m: &ChatMessage| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
    let messages: Vec<Value> = messages.iter().map(message).collect();
    let named = special_tokens.iter().filter_map(|(name, token)| Some((*name, Value::from((*token)?))));
    let context = [
        ("messages", Value::from(messages)),
        ("add_generation_prompt", Value::from(add_generation_prompt)),
        ("tools", Value::from(())),
        ("documents", Value::from(())),
    ];
    environment.render_str(template, Value::from_pairs(context.into_iter().chain(named)))
}

/// The marks that a template spells out: `<|im_start|>`.
pub(super) fn marks(template: &str) -> impl Iterator<Item = &str> {
    let starts = template.match_indices("<|").map(|(start, _)| start);
    starts.filter_map(|start| {
        let length = template[start..].find("|>")? + 2;
        let mark = &template[start..start + length];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        mark[2..length - 2].chars().all(is_name).then_some(mark)
    })
}
