//! From an address to the store that is there, with what each kind takes for credentials and how long it tries.

use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;

/// Every request is tried twice within this time: whoever calls knows better how long it is worth while
/// ([`Persistent`](crate::remote::Persistent) goes on for a minute), and says meanwhile what is wrong.
const RETRY: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Opened = (Box<dyn ObjectStore>, ObjectPath);

/// The store at `url` and the path within it. Options that are none of this kind's are passed over: they come from an environment that
/// other programs read as well.
pub(super) fn open(url: &Url, options: Vec<(String, String)>) -> Result<Opened, object_store::Error> {
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let whole = url.to_string();
    let store: Box<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Local => Box::new(LocalFileSystem::new()),
        ObjectStoreScheme::AmazonS3 => {
            let builder = AmazonS3Builder::new().with_retry(retry()).with_client_options(client()).with_url(whole);
            Box::new(options.into_iter().fold(builder, with_s3_option).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder =
                MicrosoftAzureBuilder::new().with_retry(retry()).with_client_options(client()).with_url(whole);
            let with = |builder: MicrosoftAzureBuilder, (key, value): (String, String)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            };
            Box::new(options.into_iter().fold(builder, with).build()?)
        }
        ObjectStoreScheme::Http => {
            let mut root = url.clone();
            root.set_path("");
            root.set_query(None);
            let builder =
                HttpBuilder::new().with_retry(retry()).with_client_options(client()).with_url(root.to_string());
            let with = |builder: HttpBuilder, (key, value): (String, String)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            };
            Box::new(options.into_iter().fold(builder, with).build()?)
        }
        _ => object_store::parse_url_opts(url, options)?.0,
    };
    Ok((store, path))
}

/// One of `AWS_...`, in lower case.
pub(crate) fn with_s3_option(builder: AmazonS3Builder, (key, value): (String, String)) -> AmazonS3Builder {
    match key.parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    }
}

/// How often and how long a request is repeated.
pub(crate) fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(1), base: 2.0 };
    RetryConfig { backoff, max_retries: 1, retry_timeout: RETRY }
}

/// A part of 16 MiB takes its time on a slow line: what is limited is silence, not the whole.
fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(Duration::from_secs(60))
}
