//! Formatters that break the rules below their WIT, and what each is told.

use crate::wat::{Core, list, skipped_text};

/// A formatter, and the fault of its first call.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) core: Core,
    pub(crate) fault: String,
}

const LOOP: &str = "(loop $for_ever (br $for_ever))";

impl Hostile {
    /// For those that run into it; the others end long before, but not always before 300 ms on a busy machine.
    pub(crate) fn deadline_ms(&self) -> u64 {
        if self.fault.starts_with("stopped at its deadline of 300ms") { 300 } else { 60_000 }
    }
}

/// All of them, for their deadline and the default limits.
pub(crate) fn hostile_formatters() -> Vec<Hostile> {
    let format = |format: &str| Core { format: format.into(), ..Core::default() };
    let realloc = |realloc: &str| Core { realloc: realloc.into(), ..Core::default() };
    let post_return = |post_return: &str| Core { post_return: post_return.into(), ..Core::default() };
    let start = |body: &str| Core { more: format!("(func $start {body}) (start $start)"), ..Core::default() };

    let deadline =
        "stopped at its deadline of 300ms; the plugin loops or is too slow: fix it, or raise `plugins.deadline_ms`";
    let memory = |wanted: u64| {
        format!(
            "wanted {wanted} bytes of memory, more than its cap of 67108864; the plugin leaks or needs smaller batches: \
             fix it, or raise `plugins.memory_mib`"
        )
    };
    let table = |wanted: u64| {
        format!(
            "wanted a table of {wanted} elements, more than its cap of 20000; fix the plugin, or raise \
             `plugins.table_elements`"
        )
    };
    let trap = |what: &str| format!("trapped: {what}; fix the plugin, or use another");
    let invalid = |what: &str| format!("handed back invalid output: {what}; fix the plugin, or use another");
    let unreachable = "wasm `unreachable` instruction executed (a panic shows as this)";

    let cases = [
        ("an endless loop", format(LOOP), deadline.to_owned()),
        ("an endless loop at instantiation", start(LOOP), deadline.to_owned()),
        ("an endless loop in realloc", realloc(&format!("{LOOP} (i32.const 0)")), deadline.to_owned()),
        ("an endless loop after the call", post_return(LOOP), deadline.to_owned()),
        ("a trap", format("(unreachable)"), trap(unreachable)),
        ("a trap at instantiation", start("(unreachable)"), trap(unreachable)),
        ("a trap in realloc", realloc("(unreachable)"), trap(unreachable)),
        ("a trap after the call", post_return("(unreachable)"), trap(unreachable)),
        ("a division by zero", format("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), trap("integer divide by zero")),
        (
            "memory that grows step by step",
            format("(loop $more (drop (memory.grow (i32.const 16))) (br $more))"),
            memory(65 << 20),
        ),
        ("memory that grows at once", format("(drop (memory.grow (i32.const 65520)))"), memory(65536 << 16)),
        (
            "a table that grows",
            Core {
                more: "(table $t 1 funcref)".into(),
                format: "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more))".into(),
                ..Core::default()
            },
            table(20_001),
        ),
        (
            "recursion without end",
            Core {
                more: "(func $deeper (param i32) (result i32)
                    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))"
                    .into(),
                format: "(drop (call $deeper (i32.const 0)))".into(),
                ..Core::default()
            },
            "used up its stack of 512 KiB; the plugin recurses without end or too deeply: fix it, or raise \
             `plugins.stack_kib`"
                .to_owned(),
        ),
        ("a list longer than memory", format(&list(64, 1 << 20)), invalid("list pointer/length out of bounds of memory")),
        ("a list longer than an address", format(&list(64, u32::MAX)), invalid("list pointer/length out of bounds of memory")),
        ("a list that ends beyond memory", format(&list((1 << 20) - 32, 2)), invalid("list pointer/length out of bounds of memory")),
        ("a list at an odd address", format(&list(65, 1)), invalid("list pointer is not aligned")),
        ("a text longer than memory", format(&skipped_text(128, u32::MAX)), invalid("string pointer/length out of bounds of memory")),
        ("a text beyond memory", format(&skipped_text(u32::MAX - 8, 4)), invalid("string pointer/length out of bounds of memory")),
        (
            "a text that is not UTF-8",
            format(&format!("{} (i32.store16 (i32.const 128) (i32.const 0x28c3))", skipped_text(128, 2))),
            invalid("invalid utf-8 sequence of 1 bytes from index 0"),
        ),
        (
            "half of a surrogate pair",
            format(&format!("{} (i32.store (i32.const 128) (i32.const 0x80a0ed))", skipped_text(128, 3))),
            invalid("invalid utf-8 sequence of 1 bytes from index 0"),
        ),
        ("neither ok nor an error", format("(i32.store8 (i32.const 16) (i32.const 9))"), invalid("invalid expected discriminant")),
        (
            "neither ready nor skipped",
            format(&format!("{} (i32.store8 (i32.const 64) (i32.const 7))", list(64, 1))),
            invalid("unexpected discriminant: 7"),
        ),
        (
            "neither some nor none",
            format(&format!("{} (i32.store8 (i32.const 80) (i32.const 5))", list(64, 1))),
            invalid("invalid option discriminant"),
        ),
        ("a result at an odd address", format("(return (i32.const 17))"), invalid("return pointer not aligned")),
        ("a result beyond memory", format("(return (i32.const -16))"), invalid("pointer out of bounds of memory")),
        ("realloc that gives an address beyond memory", realloc("(i32.const -8)"), invalid("realloc return: beyond end of memory")),
        ("realloc that gives an odd address", realloc("(i32.const 65537)"), invalid("realloc return: result not aligned")),
        ("more results than examples", format(&list(16384, 1000)), invalid("1000 results for 54 examples")),
        (
            "a list of one text many times over",
            format(
                "(local.set 0 (i32.const 0))
                 (i32.store (i32.const 20) (i32.const 65536)) (i32.store (i32.const 24) (i32.const 64))
                 (loop $next
                    (i32.store8 (i32.add (i32.const 65536) (local.get 0)) (i32.const 1))
                    (i32.store (i32.add (i32.const 65540) (local.get 0)) (i32.const 131072))
                    (i32.store (i32.add (i32.const 65544) (local.get 0)) (i32.const 524288))
                    (local.set 0 (i32.add (local.get 0) (i32.const 32)))
                    (br_if $next (i32.lt_u (local.get 0) (i32.const 2048))))",
            ),
            "handed back more than 16777216 bytes; the plugin repeats its output: fix it, or raise `plugins.output_mib`"
                .to_owned(),
        ),
    ];
    cases.into_iter().map(|(name, core, fault)| Hostile { name, core, fault }).collect()
}
