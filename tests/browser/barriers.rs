//! What keeps people from using a page: by axe-core's rules, on a narrow screen, with no mouse.

use std::fs;

use serde_json::Value;

use crate::chromium::{Chromium, Screen, TAB};

/// axe-core, as it is loaded into pages.
pub(crate) fn axe() -> String {
    let path = std::env::var_os("TUNESMITH_AXE")
        .expect("TUNESMITH_AXE: npm pack axe-core, and name its `package/axe.min.js` in that variable");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Chromium {
    /// Asserts that the page, whatever is in it now, keeps nobody out; and takes its picture.
    #[track_caller]
    pub(crate) fn keeps_nobody_out<'a>(&'a self, name: &'a str, axe: &'a str) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let found = self.barriers(axe).await;
            self.shot(name, Screen::Phone).await;
            self.shot(name, Screen::Desktop).await;
            assert!(found.is_empty(), "{place}: {name}: {found:#?}");
        }
    }

    /// What keeps somebody from using the page.
    pub(crate) async fn barriers(&self, axe: &str) -> Vec<String> {
        let mut found = Vec::new();
        for screen in [Screen::Desktop, Screen::Phone] {
            self.screen(screen).await;
            found.extend(self.violations(axe).await);
            found.extend(self.too_wide().await);
        }
        self.screen(Screen::Desktop).await;
        found.extend(self.unreached().await);
        found
    }

    /// Violations of axe-core's rules that are serious or critical.
    async fn violations(&self, axe: &str) -> Vec<String> {
        self.script(axe, vec![]).await;
        let script = "
            const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(
                found => done(found.violations
                    .filter(it => ['serious', 'critical'].includes(it.impact))
                    .map(it => `${it.id}: ${it.help}: ${it.nodes.map(node => node.html).join(' ')}`)),
                error => done([String(error)]));";
        texts(&self.script_async(script).await)
    }

    /// Whether one has to scroll sideways, and because of what.
    async fn too_wide(&self) -> Vec<String> {
        let script = "
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            return [...document.body.querySelectorAll('*')]
                .filter(it => it.getBoundingClientRect().right > width + 0.5)
                .map(it => `wider than ${width}: ${it.outerHTML.slice(0, 120)}`).slice(0, 5);";
        texts(&self.script(script, vec![]).await)
    }

    /// What can be clicked and is not reached by the Tab key, or does not show that it is.
    async fn unreached(&self) -> Vec<String> {
        let prepare = "
            const all = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]
                .filter(it => it.checkVisibility({ visibilityProperty: true }) && !it.disabled && it.tabIndex >= 0
                    && it.type !== 'hidden' && !(it.type === 'radio' && !it.checked));
            all.forEach((it, index) => it.dataset.tabStop = index);
            document.activeElement?.blur();
            window.getSelection().removeAllRanges();
            return all.length;";
        let stops = self.script(prepare, vec![]).await.as_u64().unwrap();
        let mut found = Vec::new();
        for _ in 0..=stops {
            self.press(&[TAB]).await;
            let look = "
                const it = document.activeElement;
                if (!it || it === document.body) return null;
                it.dataset.reached = 'yes';
                const style = getComputedStyle(it);
                const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
                return outlined || style.boxShadow !== 'none' ? null : it.outerHTML.slice(0, 120);";
            if let Value::String(html) = self.script(look, vec![]).await {
                found.push(format!("has the focus and does not show it: {html}"));
            }
        }
        let left = "
            return [...document.querySelectorAll('[data-tab-stop]:not([data-reached])')]
                .map(it => `is not reached by Tab: ${it.outerHTML.slice(0, 120)}`);";
        found.extend(texts(&self.script(left, vec![]).await));
        found
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}
