//! A Chromium of its own for each test, driven over WebDriver.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

/// For whatever a page has to become; a page takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const CONTROL: char = '\u{e009}';
pub(crate) const ENTER: char = '\u{e007}';
pub(crate) const TAB: char = '\u{e004}';

/// How wide pages are looked at.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Screen {
    Desktop,
    Phone,
}

pub(crate) struct Chromium {
    client: Client,
    shots: Option<PathBuf>,
}

/// Ended with its test, whatever comes of that.
struct Driver {
    process: Child,
    _profile: tempfile::TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// Runs `test` with a browser, which is closed afterwards even where the test fails.
pub(crate) fn with_chromium<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Chromium>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (driver, url) = driver();
        let chromium = Arc::new(Chromium::connect(&url, driver._profile.path()).await);
        let ended = tokio::spawn(test(Arc::clone(&chromium))).await;
        if ended.is_err() {
            chromium.shot("failed", Screen::Desktop).await;
        }
        let closed = chromium.client.clone().close().await;
        drop(driver);
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
        closed.unwrap();
    });
}

fn driver() -> (Driver, String) {
    let mut process = Command::new("chromedriver")
        .args(["--port=0", "--log-level=SEVERE"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("no `chromedriver` ({error}): apt-get install chromium chromium-driver"));
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        line.strip_prefix("ChromeDriver was started successfully on port ")?.trim_end_matches('.').parse::<u16>().ok()
    });
    // What it says later must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
    let driver = Driver { process, _profile: tempfile::tempdir().unwrap() };
    (driver, format!("http://127.0.0.1:{}", port.expect("a port of chromedriver")))
}

/// A command of Chromium's own protocol, through chromedriver.
#[derive(Debug)]
struct DevTools {
    cmd: &'static str,
    params: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "cmd": self.cmd, "params": self.params }).to_string()))
    }
}

impl Chromium {
    async fn connect(driver: &str, profile: &std::path::Path) -> Self {
        let profile = format!("--user-data-dir={}", profile.display());
        // Without a sandbox, because CI is root; what is shown is our own server's. What scrolls smoothly is clicked beside.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-prefers-reduced-motion",
            "--lang=en",
            &profile,
        ];
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".to_owned(), json!({ "args": args }));
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(driver).await.unwrap();
        let chromium = Self { client, shots: std::env::var_os("TUNESMITH_SHOTS").map(PathBuf::from) };
        chromium.screen(Screen::Desktop).await;
        chromium
    }

    pub(crate) async fn screen(&self, screen: Screen) {
        let (width, height, mobile) = match screen {
            Screen::Desktop => (1280, 900, false),
            Screen::Phone => (360, 740, true),
        };
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.dev_tools("Emulation.setDeviceMetricsOverride", params).await;
    }

    async fn dev_tools(&self, cmd: &'static str, params: Value) -> Value {
        self.client.issue_cmd(DevTools { cmd, params }).await.unwrap()
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub(crate) async fn url(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    pub(crate) async fn path(&self) -> String {
        self.client.current_url().await.unwrap().path().to_owned()
    }

    /// Runs a script in the page.
    pub(crate) async fn script(&self, script: &str, args: Vec<Value>) -> Value {
        self.client.execute(script, args).await.unwrap()
    }

    /// Runs a script that calls its last argument when it is done.
    pub(crate) async fn script_async(&self, script: &str) -> Value {
        self.client.execute_async(script, vec![]).await.unwrap()
    }

    /// Types into what has the focus, key by key.
    pub(crate) async fn types(&self, text: &str) {
        for key in text.chars() {
            self.press(&[key]).await;
        }
    }

    /// Presses keys together, the first one first.
    pub(crate) async fn press(&self, keys: &[char]) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for &value in keys {
            actions = actions.then(KeyAction::Down { value });
        }
        for &value in keys.iter().rev() {
            actions = actions.then(KeyAction::Up { value });
        }
        self.client.perform_actions(actions).await.unwrap();
    }

    /// All that a person reads in what the selector finds first.
    pub(crate) async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.unwrap().text().await.unwrap()
    }

    /// How many the selector finds.
    pub(crate) async fn count(&self, selector: &str) -> usize {
        self.client.find_all(Locator::Css(selector)).await.unwrap().len()
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Asks until the answer is yes.
    #[track_caller]
    pub(crate) fn until<'a, F: Future<Output = bool> + 'a>(
        &'a self,
        what: &'a str,
        mut ask: impl FnMut() -> F + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            while !ask().await {
                if start.elapsed() > PATIENCE {
                    let page = self.body().await;
                    panic!("{place}: no {what} within {PATIENCE:?} at {}: {page}", self.url().await);
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }

    /// The whole page as it is read; nothing where it is being replaced.
    pub(crate) async fn body(&self) -> String {
        let text: Result<Value, CmdError> = self.client.execute("return document.body?.innerText ?? ''", vec![]).await;
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Waits for a text anywhere in the page.
    #[track_caller]
    pub(crate) fn shows<'a>(&'a self, text: &'a str) -> impl Future<Output = ()> + 'a {
        self.until(text, move || async move { self.body().await.contains(text) })
    }

    /// A picture of the whole page.
    pub(crate) async fn shot(&self, name: &str, screen: Screen) {
        let Some(folder) = &self.shots else { return };
        self.screen(screen).await;
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.dev_tools("Page.captureScreenshot", params).await;
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let suffix = if screen == Screen::Phone { "phone" } else { "desktop" };
        std::fs::write(folder.join(format!("{name}-{suffix}.png")), png).unwrap();
        self.screen(Screen::Desktop).await;
    }
}
