use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Options};

/// `[synthetic]`: what generates the examples that people are asked about.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Generated examples")]
pub struct SyntheticOptions {
    /// Who generates: a server's model, the base model itself, recombined examples, or `auto`: the first of these that can
    /// [default: auto]
    #[arg(long, env = "TUNESMITH_GENERATOR", value_name = "WHO")]
    pub generator: Option<GeneratorChoice>,
    /// Server with OpenAI's chat completions: http://127.0.0.1:8000/v1
    #[arg(long, env = "TUNESMITH_SYNTHETIC_URL", value_name = "URL")]
    pub synthetic_url: Option<String>,
    /// Which of its models [default: the only one that it has]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_MODEL", value_name = "NAME")]
    pub synthetic_model: Option<String>,
    /// File with its API key [default: the variable TUNESMITH_SYNTHETIC_API_KEY, else OPENAI_API_KEY]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_API_KEY_FILE", value_name = "FILE")]
    pub synthetic_api_key_file: Option<PathBuf>,
    /// Requests at one time [default: 4]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_CONCURRENCY", value_name = "N")]
    pub synthetic_concurrency: Option<NonZeroU32>,
    /// Most requests of one generation, repetitions included [default: 200]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_MAX_REQUESTS", value_name = "N")]
    pub synthetic_max_requests: Option<NonZeroU32>,
    /// Most tokens of one generation, prompts and answers together [default: 200000]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_MAX_TOKENS", value_name = "TOKENS")]
    pub synthetic_max_tokens: Option<NonZeroU64>,
    /// How often a request is repeated that failed in passing [default: 4]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_RETRIES", value_name = "N")]
    pub synthetic_retries: Option<u32>,
    /// Longest that one answer may take [default: 60]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_TIMEOUT_S", value_name = "SECONDS")]
    pub synthetic_timeout_s: Option<NonZeroU32>,
    /// How freely a model answers, 0 to 2 [default: 0.9]
    #[arg(long, env = "TUNESMITH_SYNTHETIC_TEMPERATURE", value_name = "TEMPERATURE")]
    pub synthetic_temperature: Option<f32>,
    /// Real examples that a prompt shows [default: 4]
    #[arg(long, env = "TUNESMITH_FEW_SHOT", value_name = "N")]
    pub few_shot: Option<NonZeroU32>,
}

/// Who generates examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorChoice {
    /// A server where one is named, else the base model where it can, else recombination.
    Auto,
    /// A server's model.
    Endpoint,
    /// The base model itself.
    BaseModel,
    /// Recombination of real examples.
    Templates,
}

/// `[synthetic]`, every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SyntheticConfig {
    /// Who generates.
    pub generator: GeneratorChoice,
    /// The server that answers, where one is named.
    pub endpoint: Option<EndpointConfig>,
    /// Divides a model's logits.
    pub temperature: f32,
    /// Real examples that a prompt shows.
    pub few_shot: usize,
}

/// A server with OpenAI's chat completions, and what it may cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointConfig {
    /// Its address, up to what `/chat/completions` follows.
    pub url: String,
    /// Which of its models; none means the only one that it has.
    pub model: Option<String>,
    /// Where its key is.
    pub api_key_file: Option<PathBuf>,
    /// Whether a key of the environment counts where no file is named.
    #[serde(skip)]
    pub key_of_environment: bool,
    /// Requests at one time.
    pub concurrency: usize,
    /// Requests of one generation, repetitions included.
    pub max_requests: u32,
    /// Tokens of one generation, prompts and answers together.
    pub max_tokens: u64,
    /// How often a request is repeated that failed in passing.
    pub retries: u32,
    /// Seconds that one answer may take.
    pub timeout_s: u32,
}

impl SyntheticConfig {
    /// Fills in the defaults and checks the values.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], and [`ConfigError::Missing`] where a server is to answer and none is named.
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let own = &options.synthetic;
        let generator = own.generator.unwrap_or(GeneratorChoice::Auto);
        let endpoint = endpoint(own, options.granted.secrets_of_environment())?;
        if generator == GeneratorChoice::Endpoint && endpoint.is_none() {
            return Err(ConfigError::Missing {
                key: "synthetic.synthetic_url",
                remedy: "name the server with `--synthetic-url`, such as `http://127.0.0.1:8000/v1`".to_owned(),
            });
        }
        let temperature = own.synthetic_temperature.unwrap_or(0.9);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(ConfigError::Invalid {
                key: "synthetic.synthetic_temperature",
                value: temperature.to_string(),
                want: "0 takes the likeliest answer, and 2 is the most that servers allow".to_owned(),
            });
        }
        let few_shot = own.few_shot.map_or(4, |few_shot| few_shot.get() as usize);
        Ok(Self { generator, endpoint, temperature, few_shot })
    }
}

fn endpoint(own: &SyntheticOptions, key_of_environment: bool) -> Result<Option<EndpointConfig>, ConfigError> {
    let Some(url) = &own.synthetic_url else { return Ok(None) };
    let invalid = |value: &str, want: &str| ConfigError::Invalid {
        key: "synthetic.synthetic_url",
        value: format!("{value:?}"),
        want: format!("{want}; give an address such as `http://127.0.0.1:8000/v1`"),
    };
    let parsed = Url::parse(url).map_err(|error| invalid(url, &error.to_string()))?;
    if !["http", "https"].contains(&parsed.scheme()) || parsed.host_str().is_none() {
        return Err(invalid(url, "neither http nor https"));
    }
    let of_credentials = !parsed.username().is_empty() || parsed.password().is_some();
    if of_credentials || parsed.query().is_some() || parsed.fragment().is_some() {
        // Whose text is not repeated: it may hold a key.
        let shown = format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
        let want = "it held a user, a password or a query, and a key belongs into `--synthetic-api-key-file`";
        return Err(invalid(&shown, want));
    }
    Ok(Some(EndpointConfig {
        url: url.trim_end_matches('/').to_owned(),
        model: own.synthetic_model.clone(),
        api_key_file: own.synthetic_api_key_file.clone(),
        key_of_environment,
        concurrency: own.synthetic_concurrency.map_or(4, |n| n.get() as usize),
        max_requests: own.synthetic_max_requests.map_or(200, NonZeroU32::get),
        max_tokens: own.synthetic_max_tokens.map_or(200_000, NonZeroU64::get),
        retries: own.synthetic_retries.unwrap_or(4),
        timeout_s: own.synthetic_timeout_s.map_or(60, NonZeroU32::get),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(own: SyntheticOptions) -> Result<SyntheticConfig, String> {
        let options = Options { synthetic: own, ..Options::default() };
        SyntheticConfig::new(&options).map_err(|error| error.to_string())
    }

    fn at(url: &str) -> SyntheticOptions {
        SyntheticOptions { synthetic_url: Some(url.to_owned()), ..SyntheticOptions::default() }
    }

    #[test]
    fn defaults_ask_no_server_and_a_named_one_within_a_budget() {
        let without = config(SyntheticOptions::default()).unwrap();
        let SyntheticConfig { generator, endpoint, temperature, few_shot } = without;
        assert_eq!((generator, endpoint, temperature, few_shot), (GeneratorChoice::Auto, None, 0.9, 4));
        let with = config(at("http://127.0.0.1:8000/v1/")).unwrap().endpoint.unwrap();
        let EndpointConfig { url, model, concurrency, max_requests, max_tokens, retries, timeout_s, .. } = with;
        assert_eq!((url.as_str(), model, concurrency), ("http://127.0.0.1:8000/v1", None, 4));
        assert_eq!((max_requests, max_tokens, retries, timeout_s), (200, 200_000, 4, 60));
    }

    #[test]
    fn an_address_with_a_secret_is_refused_and_not_repeated() {
        for url in ["https://me:secret@llm.example.com/v1", "https://llm.example.com/v1?api-key=secret"] {
            assert_eq!(
                config(at(url)).unwrap_err(),
                "`synthetic.synthetic_url` is \"https://llm.example.com\": it held a user, a password or a query, and a key \
                 belongs into `--synthetic-api-key-file`; give an address such as `http://127.0.0.1:8000/v1`"
            );
        }
        for url in ["ftp://llm.example.com", "llm", "127.0.0.1:8000"] {
            assert!(config(at(url)).unwrap_err().contains("give an address such as"), "{url}");
        }
    }

    #[test]
    fn a_generator_that_needs_a_server_wants_one_named() {
        let own = SyntheticOptions { generator: Some(GeneratorChoice::Endpoint), ..SyntheticOptions::default() };
        assert_eq!(
            config(own).unwrap_err(),
            "`synthetic.synthetic_url` is not set: name the server with `--synthetic-url`, such as `http://127.0.0.1:8000/v1`"
        );
        let own = SyntheticOptions { synthetic_temperature: Some(2.5), ..SyntheticOptions::default() };
        assert!(config(own).unwrap_err().starts_with("`synthetic.synthetic_temperature` is 2.5: "));
    }
}
