//! Tests of the pages of `tunesmith serve` in a real Chromium; this crate has no code of its own.
//!
//! They are ignored unless asked for, because they need `chromium` and `chromedriver`:
//! `check.sh` installs them and fetches axe-core. Variables of the environment:
//!
//! - `TUNESMITH_BIN`: the binary; without it that of `target/release`.
//! - `TUNESMITH_AXE`: the `axe.min.js` of the npm package `axe-core`; those that look for barriers fail without it.
//! - `TUNESMITH_SHOTS`: a folder for a picture of every page; without it none is taken.
