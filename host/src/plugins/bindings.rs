//! Generated from `wit/`: the records that cross the plugin boundary are also the host's own domain types,
//! so that nothing is converted twice and the WIT files are the one definition.
#![allow(missing_docs, unreachable_pub)]

/// Extractor plugins, the shared records, and the log.
pub mod extractor {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "extractor",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

/// Formatter plugins.
pub mod formatter {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "formatter",
        with: { "tunesmith:plugin/types@0.1.1": super::types, "tunesmith:plugin/log@0.1.1": super::log },
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

/// Policy plugins.
pub mod policy {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        with: { "tunesmith:plugin/types@0.1.1": super::types, "tunesmith:plugin/log@0.1.1": super::log },
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

pub use extractor::exports::tunesmith::plugin::extraction;
pub use extractor::tunesmith::plugin::{log, types};
pub use formatter::exports::tunesmith::plugin::formatting;
pub use policy::exports::tunesmith::plugin::selection_policy;
