//! Pieces that the pages of runs share.

use maud::{Markup, html};
use trainer_cuda::method::Evaluation;

use crate::report;
use crate::server::run_folders::{RunState, RunSummary, StepPoint};

/// Where a run stands, as a word with a colour.
pub(super) fn state(state: RunState) -> Markup {
    html! { span.state.{ "run-" (state.name()) } { (state.name()) } }
}

/// What a run came to, as a word with a colour.
pub(super) fn verdict(run: &RunSummary) -> Markup {
    match (run.adapter_beats_base, run.state) {
        (Some(true), _) => html! { span.state.passed { "beats base" } },
        (Some(false), _) => html! { span.state.failed { "does not beat base" } },
        (None, RunState::Finished) => html! { span.state { "not judged" } },
        (None, _) => html! {},
    }
}

/// `26 Nov 2026, 08:44 UTC`
pub(super) fn time(rfc_3339: Option<&str>) -> Markup {
    let parsed = rfc_3339.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    html! {
        @match (parsed, rfc_3339) {
            (Some(time), Some(text)) => time datetime=(text) { (time.strftime("%-d %b %Y, %H:%M UTC")) },
            _ => "unknown",
        }
    }
}

/// As [`time`], of unix milliseconds.
pub(super) fn time_ms(ms: Option<i64>) -> Markup {
    let text = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string());
    time(text.as_deref())
}

/// Or a dash where nothing is known.
pub(super) fn or_dash(text: Option<impl std::fmt::Display>) -> String {
    text.map_or_else(|| "–".to_owned(), |text| text.to_string())
}

pub(super) fn loss(loss: f64) -> String {
    format!("{loss:.4}")
}

/// `0.002`, `0.00012`, and of smaller ones `1.2e-6`.
pub(super) fn learning_rate(rate: f64) -> String {
    match rate.abs() {
        size if size == 0.0 || size >= 1e-4 => format!("{}", (rate * 1e6).round() / 1e6),
        _ => format!("{rate:.1e}"),
    }
}

/// The base model's scores over the adapter's.
pub(super) fn scores(base: &Evaluation, adapter: &Evaluation) -> Markup {
    let (before, after) = (report::figures(base.loss, &base.metrics), report::figures(adapter.loss, &adapter.metrics));
    html! {
        table.figures {
            caption { "On " (adapter.n_examples) " examples that did not train it" }
            thead { tr {
                th scope="col" { span.unseen { "Model" } }
                @for (name, _) in &before { th.figure scope="col" { (name) } }
            } }
            tbody {
                @for (name, figures) in [("base", &before), ("adapter", &after)] {
                    tr {
                        th scope="row" { (name) }
                        @for (_, value) in figures { td.figure { (value) } }
                    }
                }
            }
        }
    }
}

/// At most `most` of them, evenly, with the first and the last.
pub(super) fn evenly(steps: &[StepPoint], most: usize) -> Vec<&StepPoint> {
    let each = steps.len().div_ceil(most.max(1)).max(1);
    let mut chosen: Vec<_> = steps.iter().step_by(each).collect();
    if let Some(last) = steps.last()
        && chosen.last().is_some_and(|chosen| chosen.step != last.step)
    {
        chosen.push(last);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_need_to_be() {
        assert_eq!(loss(0.343_951_210), "0.3440");
        assert_eq!(
            [0.0, 0.002, 0.001_990_476_2, 0.0001, 1.5e-5].map(learning_rate),
            ["0", "0.002", "0.00199", "0.0001", "1.5e-5"]
        );
    }

    #[test]
    fn a_time_is_told_to_the_minute_and_what_is_none_is_unknown() {
        let told = r#"<time datetime="2026-11-26T08:44:03Z">26 Nov 2026, 08:44 UTC</time>"#;
        assert_eq!(time(Some("2026-11-26T08:44:03Z")).into_string(), told);
        assert_eq!(time(Some("never")).into_string(), "unknown");
        assert_eq!(time_ms(Some(i64::MAX)).into_string(), "unknown");
    }
}
