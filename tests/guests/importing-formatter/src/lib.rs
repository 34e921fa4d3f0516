//! A formatter that wants the network: a component that a host without that import must refuse.

wit_bindgen::generate!({
    inline: r#"
        package tenant:reach;

        interface http {
            get: func(url: string) -> string;
        }

        world importing-formatter {
            import http;
            include tunesmith:plugin/formatter@0.1.1;
        }
    "#,
    path: "../../../wit",
    world: "tenant:reach/importing-formatter",
    generate_all,
});

use exports::tunesmith::plugin::formatting::{Formatted, FormatterConfig, Guest};
use tunesmith::plugin::types::{Example, PluginError};

struct Importing;

impl Guest for Importing {
    fn format(_: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        let answer = tenant::reach::http::get("https://example.org/");
        Ok(examples.iter().map(|_| Formatted::Skipped(answer.clone())).collect())
    }
}

export!(Importing);
