//! The plugin host: components in, typed calls out.

pub mod bindings;
