//! Every page, for everybody: see `barriers.rs`.

use std::process::Stdio;

use crate::barriers::axe;
use crate::chromium::with_chromium;
use crate::served::Home;

#[test]
#[ignore = "needs chromium, chromedriver and axe-core"]
fn no_page_keeps_anybody_out() {
    with_chromium(|chromium| async move {
        let axe = axe();
        let home = Home::short();
        let (code, told) = home.run(&["finetune"]);
        assert_eq!(code, Some(3), "{told}");
        let serving = home.serve();
        chromium
            .open("data:text/html,<html><img src='x'><a href='/'>link</a><div style='width:9999px'>wide</div>")
            .await;
        let found = chromium.barriers(&axe).await;
        for known in ["image-alt: ", "html-has-lang: ", "wider than 1280: <div"] {
            assert!(found.iter().any(|it| it.contains(known)), "{known} is not found: {found:#?}");
        }

        chromium.open(&serving.url("/")).await;
        chromium.keeps_nobody_out("login", &axe).await;
        chromium.sign_in(&serving.url("/review"), &serving.token).await;
        let visit = async |name: &str, path: &str| {
            chromium.open(&serving.url(path)).await;
            chromium.keeps_nobody_out(name, &axe).await;
        };
        visit("queue", "/review").await;
        visit("items", "/review/items").await;
        visit("item", "/review/items/1").await;
        visit("people", "/people").await;
        visit("keys", "/review/keys").await;

        // Many at once: a sample of them is looked at first.
        chromium.open(&serving.url("/review/items?state=pending")).await;
        chromium.click("details.bulk summary").await;
        chromium.click("details.bulk button").await;
        chromium.until("the sample", || async { chromium.path().await == "/review/bulk" }).await;
        chromium.keeps_nobody_out("bulk", &axe).await;
        chromium.click("form[action='/review/bulk/cancel'] button").await;
        chromium.until("the end of it", || async { chromium.path().await != "/review/bulk" }).await;

        visit("not-found", "/nowhere").await;
        visit("runs-waiting", "/runs").await;
        visit("adapters-none", "/adapters").await;

        // An item that was edited shows what was changed.
        chromium.open(&serving.url("/review/items/1")).await;
        chromium.press(&['e']).await;
        chromium.types("Please ").await;
        chromium.press(&[crate::chromium::CONTROL, crate::chromium::ENTER]).await;
        chromium.until("the next item", || async { chromium.path().await != "/review/items/1" }).await;
        visit("item-diff", "/review/items/1").await;
        visit("items-edited", "/review/items?state=edited").await;

        // An adapter, and its run: of what is there without what was generated.
        let enough =
            home.command(&["finetune", "--min-sft-examples", "30", "--epochs", "6"]).stdout(Stdio::null()).status();
        assert!(enough.unwrap().success());
        let name = home.adapters().remove(0);
        visit("runs", "/runs").await;
        visit("adapters", "/adapters").await;
        visit("run", &format!("/runs/{name}")).await;
        let open = "document.querySelectorAll('details').forEach(it => it.open = true)";
        chromium.script(open, vec![]).await;
        chromium.keeps_nobody_out("run-all-open", &axe).await;
    });
}
