//! The whole path, through the real binary, as its users meet it: what they do, what they see, what is left on disk.
//!
//! These tests are a target of the `tunesmith` package although they lie here: cargo tells only a package's own
//! tests where its binary is, and so it is always the one just built, whatever the profile or the target folder.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod adapters;
mod bad_configuration;
mod bad_models;
mod bad_plugins;
mod bad_telemetry;
mod conversations;
mod decisions_killed;
mod embedding;
mod faulty_line;
mod frozen_plugins;
mod generating;
mod generators;
mod gpu;
mod gpu_faults;
mod home;
mod hostile_formatters;
mod hostile_plugins;
mod hostile_plugins_in_turn;
mod hygiene;
mod json_output;
mod killed;
mod memory;
mod merging;
mod phoenix_faults;
mod plugin_authors;
mod preferences;
mod quick_start;
mod receiver;
mod receiver_killed;
mod remote_faults;
mod reproducible;
mod resumed;
mod review;
mod review_api;
mod review_document;
mod review_faults;
mod review_pages;
mod reviewing;
mod run_pages;
mod serving;
mod serving_analysis;
mod serving_encrypted;
mod spans;
mod telemetry;
mod tenant_escapes;
mod tenants_formatter;
mod triplets;
mod trusted_plugins;
mod waiting_for_people;
mod wat;
mod worker;
