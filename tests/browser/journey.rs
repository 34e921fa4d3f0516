//! From too little data to a finished adapter, in a browser and by keyboard.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::chromium::{CONTROL, Chromium, ENTER, with_chromium};
use crate::served::Home;

/// A process that is ended with its test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

impl Chromium {
    pub(crate) async fn sign_in(&self, url: &str, token: &str) {
        self.open(url).await;
        self.until("focus in the field of the token", || async {
            self.script("return document.activeElement.id", vec![]).await == "token"
        })
        .await;
        self.types(token).await;
        self.press(&[ENTER]).await;
        self.until("page behind the sign-in", || async { self.path().await != "/login" }).await;
    }

    /// The number of the item whose page this is.
    async fn item(&self) -> Option<i64> {
        self.path().await.strip_prefix("/review/items/")?.parse().ok()
    }

    /// Waits for the page of another pending item.
    async fn other_than(&self, before: i64) -> i64 {
        self.until("another item", || async {
            self.item().await.is_some_and(|item| item != before) && self.is_ready().await
        })
        .await;
        self.item().await.unwrap()
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.script("return document.readyState === 'complete'", vec![]).await == true
    }
}

/// The inputs of all items as they were generated, by the journal of the approval store.
fn generated(home: &Home) -> BTreeMap<i64, String> {
    let journal = std::fs::read_to_string(home.path("approvals.journal.jsonl")).unwrap();
    let records = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let item = |record: Value| {
        let item = record.get("item").filter(|item| item.is_object())?;
        Some((item["id"].as_i64()?, item["original"]["input"].as_str()?.to_owned()))
    };
    records.filter_map(item).collect()
}

const WRITTEN: &str = "who pays for a parcel that came back, asked by a person";

#[test]
#[ignore = "needs chromium and chromedriver"]
fn too_little_data_becomes_an_adapter_by_what_a_person_approves_with_the_keyboard() {
    with_chromium(|chromium| async move {
        let home = Home::short();
        let (code, told) = home.run(&["finetune"]);
        assert_eq!(code, Some(3), "{told}");
        assert!(told.contains("11 must be approved"), "{told}");
        let mut finetune = home.command(&["finetune", "--wait-for-approval"]);
        let mut finetune = Background(finetune.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let serving = home.serve();

        // The queue, and the first item that waits.
        chromium.sign_in(&serving.url("/"), &serving.token).await;
        chromium.shows("items wait for a decision").await;
        chromium.press(&['j']).await;
        chromium.until("list of items", || async { chromium.path().await == "/review/items" }).await;
        chromium.until("items", || async { chromium.count("ol.items a").await == 14 }).await;
        chromium.click("ol.items a").await;
        let first = chromium.other_than(0).await;

        // `a` approves and shows the next; `u` takes it back.
        chromium.press(&['a']).await;
        let second = chromium.other_than(first).await;
        chromium.press(&['u']).await;
        chromium.other_than(second).await;
        assert_eq!(chromium.item().await, Some(first), "{}", chromium.body().await);
        chromium.press(&['a']).await;
        assert_eq!(chromium.other_than(first).await, second);

        // `r` goes to the reason, and Enter rejects.
        chromium.press(&['r']).await;
        chromium.types("nobody asks so").await;
        chromium.press(&[ENTER]).await;
        let third = chromium.other_than(second).await;

        // `e` goes to the first text; the input is two fields on, and Ctrl+Enter saves.
        chromium.press(&['e']).await;
        chromium.press(&[crate::chromium::TAB]).await;
        assert_eq!(chromium.script("return document.activeElement.name", vec![]).await, "input");
        chromium.press(&[CONTROL, 'a']).await;
        chromium.types(WRITTEN).await;
        chromium.press(&[CONTROL, ENTER]).await;
        let mut at = chromium.other_than(third).await;

        let mut approved = vec![first];
        while approved.len() + 1 < 11 {
            chromium.press(&['a']).await;
            approved.push(at);
            at = chromium.other_than(at).await;
        }

        // The run goes on by itself, and is drawn while it does.
        chromium.open(&serving.url("/runs")).await;
        chromium
            .until("run that trains", || async {
                let trains = chromium.count(".state.run-training").await > 0;
                if !trains {
                    chromium.open(&serving.url("/runs")).await;
                }
                trains
            })
            .await;
        chromium.click("tbody th a").await;
        let steps = || async { chromium.text("#live").await };
        chromium.until("a curve", || async { chromium.count("#live path.training").await == 1 }).await;
        let drawn =
            chromium.script("return document.querySelector('#live path.training').getAttribute('d')", vec![]).await;
        let told = steps().await;
        chromium.shot("run-live", crate::chromium::Screen::Desktop).await;
        chromium
            .until("a curve that has grown, on the same page", || async {
                let script = "return document.querySelector('#live path.training')?.getAttribute('d') ?? ''";
                chromium.script(script, vec![]).await != drawn && steps().await != told
            })
            .await;

        // And then it is there.
        chromium.until("the finished adapter", || async { chromium.count(".state.run-finished").await == 1 }).await;
        let start = Instant::now();
        let ended = loop {
            match finetune.0.try_wait().unwrap() {
                Some(ended) => break ended,
                None => assert!(start.elapsed() < Duration::from_secs(20), "it does not end"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(ended.code(), Some(0));
        let names = home.adapters();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(chromium.path().await, format!("/runs/{}", names[0]));
        chromium.shows("11 generated, each approved by a person before it trained").await;
        chromium.open(&serving.url("/adapters")).await;
        chromium.shows(&names[0]).await;

        // What is on the disk is what was approved, and nothing else that was generated.
        for file in ["adapter_model.safetensors", "adapter_config.json", "README.md", "dataset.json"] {
            assert!(home.path("adapters").join(&names[0]).join(file).is_file(), "{file}");
        }
        let run = home.read_json(&format!("adapters/{}/run.json", names[0]));
        let of_people: BTreeMap<i64, &Value> = run["lineage"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|row| Some((row["approval"]["item"].as_i64()?, &row["approval"])))
            .collect();
        let mut expected = approved.clone();
        expected.push(third);
        expected.sort_unstable();
        assert_eq!(of_people.keys().copied().collect::<Vec<_>>(), expected);
        assert!(!expected.contains(&second));
        for (item, approval) in &of_people {
            assert_eq!(approval["edited"], *item == third, "{approval}");
            assert_eq!(approval["generator"], "templates");
        }

        // The very texts: those of the records that the same command would train on now.
        let (code, records) = home.run(&["extract"]);
        assert_eq!(code, Some(0), "{records}");
        let marked: Vec<_> = records.lines().filter(|line| line.contains("\"approval\":")).collect();
        assert_eq!(marked.len(), 11);
        assert_eq!(marked.iter().filter(|line| line.contains(WRITTEN)).count(), 1);
        let items = generated(&home);
        assert_eq!(items.len(), 14);
        for (id, input) in items {
            let trains = expected.contains(&id) && id != third;
            assert_eq!(marked.iter().any(|line| line.contains(&input)), trains, "item {id}: {input}");
        }
    });
}
