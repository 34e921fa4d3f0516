//! Components that no compiler would make, from WebAssembly text: what a plugin does below its WIT.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::home::repository;

/// The parts of a formatter's core module that a test cares for.
///
/// Its result lies at 16: `result<list<formatted>, plugin-error>` is the discriminant at 16, and at 20 and 24 the list's
/// pointer and length; a `formatted` is 32 bytes, its discriminant first (1 is `skipped`), then at 4 and 8 the text's
/// pointer and length.
pub(crate) struct Core {
    /// Instructions of `format`; the result's address follows them.
    pub(crate) format: String,
    /// Instructions of `cabi_realloc (old, old_len, align, new_len)`, with the address that it gives.
    pub(crate) realloc: String,
    /// Instructions of the post-return function.
    pub(crate) post_return: String,
    /// Whatever else is in the module.
    pub(crate) more: String,
    /// Pages of memory.
    pub(crate) pages: u32,
}

impl Default for Core {
    /// A well-behaved formatter of no example: it gives an empty list.
    fn default() -> Self {
        let (format, post_return, more) = (list(64, 0), String::new(), String::new());
        Self { format, realloc: BUMP.to_owned(), post_return, more, pages: 16 }
    }
}

/// Never frees, and starts above what a test lays down.
const BUMP: &str = "
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (local.get $at)";

impl Core {
    pub(crate) fn component(&self) -> Vec<u8> {
        let Self { format, realloc, post_return, more, pages } = self;
        let text = format!(
            r#"(module
                (memory (export "memory") {pages})
                (global $free (mut i32) (i32.const 65536))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
                (func (export "tunesmith:plugin/formatting@0.1.1#format")
                    (param i32 i32 i32 i32 i32 i32) (result i32)
                    {format}
                    (i32.const 16))
                (func (export "cabi_post_tunesmith:plugin/formatting@0.1.1#format") (param i32) {post_return})
                {more})"#
        );
        let mut module = wat::parse_str(text).unwrap();
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(repository("wit")).unwrap();
        let world = resolve.select_world(&[package], Some("formatter")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    }
}

/// Instructions that lay down an `ok` of a list at `pointer` with `length` elements.
pub(crate) fn list(pointer: u32, length: u32) -> String {
    format!("(i32.store (i32.const 20) (i32.const {pointer})) (i32.store (i32.const 24) (i32.const {length}))")
}

/// Instructions that lay down a list of one `skipped` at 64, whose text is at `pointer` with `length` bytes.
pub(crate) fn skipped_text(pointer: u32, length: u32) -> String {
    format!(
        "{} (i32.store8 (i32.const 64) (i32.const 1)) (i32.store (i32.const 68) (i32.const {pointer}))
         (i32.store (i32.const 72) (i32.const {length}))",
        list(64, 1)
    )
}
