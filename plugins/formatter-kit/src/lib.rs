//! What the default formatters share: the generated bindings, the Alpaca prompt, and the records of preference pairs
//! and triplets, which look the same whatever form the instruction examples take.

mod records;

pub use plugin_settings::Settings;
pub use records::{alpaca_preference, alpaca_prompt, format_each};

/// Generated from `wit/formatter.wit`.
#[allow(missing_docs, unreachable_pub)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "formatter",
        path: "../../wit",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_formatter",
    });
}

pub use bindings::exports::tunesmith::plugin::formatting;
pub use bindings::tunesmith::plugin::types;

/// Exports a type that implements [`formatting::Guest`] from a WASM component.
#[macro_export]
macro_rules! export {
    ($plugin:ident) => {
        $crate::bindings::export_formatter!($plugin with_types_in $crate::bindings);
    };
}
