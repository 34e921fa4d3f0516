//! A formatter that calls WASI, and tells what it got; with the setting `reach`, one that opens a socket.

wit_bindgen::generate!({
    inline: r#"
        package tenant:runtime;

        world wasi-formatter {
            import wasi:cli/environment@0.2.6;
            import wasi:cli/stderr@0.2.6;
            import wasi:clocks/monotonic-clock@0.2.6;
            import wasi:clocks/wall-clock@0.2.6;
            import wasi:filesystem/preopens@0.2.6;
            import wasi:random/random@0.2.6;
            import wasi:sockets/tcp-create-socket@0.2.6;
            include tunesmith:plugin/formatter@0.1.1;
        }

        package wasi:io@0.2.6 {
            interface error {
                resource error;
            }
            interface streams {
                use error.{error};
                variant stream-error { last-operation-failed(error), closed }
                resource output-stream {
                    blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                }
            }
        }

        package wasi:cli@0.2.6 {
            interface environment {
                get-environment: func() -> list<tuple<string, string>>;
                get-arguments: func() -> list<string>;
                initial-cwd: func() -> option<string>;
            }
            interface stderr {
                use wasi:io/streams@0.2.6.{output-stream};
                get-stderr: func() -> output-stream;
            }
        }

        package wasi:clocks@0.2.6 {
            interface monotonic-clock {
                now: func() -> u64;
            }
            interface wall-clock {
                record datetime { seconds: u64, nanoseconds: u32 }
                now: func() -> datetime;
            }
        }

        package wasi:filesystem@0.2.6 {
            interface types {
                resource descriptor;
            }
            interface preopens {
                use types.{descriptor};
                get-directories: func() -> list<tuple<descriptor, string>>;
            }
        }

        package wasi:random@0.2.6 {
            interface random {
                get-random-bytes: func(len: u64) -> list<u8>;
                get-random-u64: func() -> u64;
            }
        }

        package wasi:sockets@0.2.6 {
            interface tcp-create-socket {
                create-tcp-socket: func() -> result<u32, u32>;
            }
        }
    "#,
    path: "../../../wit",
    world: "tenant:runtime/wasi-formatter",
    generate_all,
});

use exports::tunesmith::plugin::formatting::{Formatted, FormatterConfig, Guest};
use tunesmith::plugin::types::{Example, PluginError};
use wasi::cli::{environment, stderr};
use wasi::clocks::{monotonic_clock, wall_clock};
use wasi::filesystem::preopens;
use wasi::random::random;
use wasi::sockets::tcp_create_socket;

struct Wasi;

impl Guest for Wasi {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        match config.settings.first().map(|(_, value)| value.as_str()) {
            Some("socket") => {
                let refused = tcp_create_socket::create_tcp_socket().is_err();
                return Err(PluginError::Internal(format!("refused: {refused}")));
            }
            Some("random") => {
                let bytes = random::get_random_bytes(1 << 40).len();
                return Err(PluginError::Internal(format!("{bytes} bytes")));
            }
            _ => {}
        }
        let written = stderr::get_stderr().blocking_write_and_flush(b"nobody reads this\n").is_ok();
        let seen = format!(
            "environment {}, arguments {}, folder {:?}, files {}, written {written}, wall {}, monotonic {} {}, random {} {:?}",
            environment::get_environment().len(),
            environment::get_arguments().len(),
            environment::initial_cwd(),
            preopens::get_directories().len(),
            wall_clock::now().seconds,
            monotonic_clock::now(),
            monotonic_clock::now(),
            random::get_random_u64(),
            random::get_random_bytes(3),
        );
        Ok(examples.iter().map(|_| Formatted::Skipped(seen.clone())).collect())
    }
}

export!(Wasi);
