//! `/runs` and `/adapters`: what there is, newest first.

use maud::{Markup, html};
use trainer_cuda::method::Evaluation;

use super::parts;
use crate::runs::RunRecord;
use crate::server::run_folders::{RunPage, RunState, RunSummary};

/// All runs, those under way among them.
pub(super) fn runs(page: &RunPage, waiting: &[RunRecord]) -> Markup {
    html! {
        h1 { "Runs" }
        @if !waiting.is_empty() {
            h2 { "Waiting for people" }
            ul.cards { @for run in waiting { li { (waits(run)) } } }
            h2 { "Started" }
        }
        @if page.runs.is_empty() {
            p.empty { "No run has been started yet. " code { "tunesmith finetune" } " starts one, and it is here while it trains." }
        } @else {
            table.stack {
                thead { tr {
                    th scope="col" { "Run" }
                    th scope="col" { "State" }
                    th scope="col" { "Agent" }
                    th scope="col" { "Started" }
                    th.figure scope="col" { "Examples" }
                    th scope="col" { "Result" }
                } }
                tbody {
                    @for run in &page.runs {
                        tr {
                            th scope="row" { a href=(super::path(&run.name)) { (run.name) } }
                            td data-label="State" { (parts::state(run.state)) }
                            td data-label="Agent" { (run.agent_type) " · " (run.method) }
                            td data-label="Started" { (parts::time(run.started.as_deref())) }
                            td.figure data-label="Examples" { (examples(run)) }
                            td data-label="Result" { (result(run)) }
                        }
                    }
                }
            }
            (older(page, "/runs"))
        }
    }
}

/// A run that goes on when people have approved enough.
fn waits(run: &RunRecord) -> Markup {
    let since = run.created_at.to_string();
    html! {
        h3 { (run.id) }
        p {
            (run.agent_type) " · since " (parts::time(Some(&since)))
            @if let Some(waits_for) = &run.waits_for { " · has " (waits_for.have) " of " (waits_for.need) " examples" }
        }
        p { a href="/review" { "Review what was generated for it" } }
    }
}

/// Finished runs with what they came to.
pub(super) fn adapters(page: &RunPage) -> Markup {
    html! {
        h1 { "Adapters" }
        p { "An adapter is compared with its base on examples that neither was trained on: figures go from the base's to the "
            "adapter's. One that does not beat its base is kept, and told to be so." }
        @if page.runs.is_empty() {
            p.empty { "There is no adapter yet: a run gives one when it is finished. " a href="/runs" { "See the runs" } "." }
        } @else {
            table.stack {
                thead { tr {
                    th scope="col" { "Adapter" }
                    th scope="col" { "Verdict" }
                    th.figure scope="col" { "Loss" }
                    th.figure scope="col" { "Right" }
                    th.figure scope="col" { "Examples" }
                    th scope="col" { "Base model" }
                } }
                tbody {
                    @for run in &page.runs {
                        tr {
                            th scope="row" { a href=(super::path(&run.name)) { (run.name) } }
                            td data-label="Verdict" { (parts::verdict(run)) @if let Some(what) = &run.problem { " " (what) } }
                            td.figure data-label="Loss" { (change(run, |scores| parts::loss(scores.loss))) }
                            td.figure data-label="Right" { (change(run, |scores| percent(scores.accuracy()))) }
                            td.figure data-label="Examples" { (examples(run)) }
                            td data-label="Base model" { (parts::or_dash(run.base_model.as_deref())) }
                        }
                    }
                }
            }
            (older(page, "/adapters"))
        }
    }
}

/// From the base model's to the adapter's.
fn change(run: &RunSummary, figure: fn(&Evaluation) -> String) -> String {
    match (&run.base, &run.adapter) {
        (Some(base), Some(adapter)) => format!("{} → {}", figure(base), figure(adapter)),
        _ => "–".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn examples(run: &RunSummary) -> String {
    match (run.n_train, run.n_held_out) {
        (Some(train), Some(held_out)) => format!("{train} + {held_out}"),
        _ => "–".to_owned(),
    }
}

fn result(run: &RunSummary) -> Markup {
    html! {
        @if let Some(what) = &run.problem { span.fault { (what) } }
        @else if run.state == RunState::Finished { (parts::verdict(run)) }
        @else if let (Some(step), Some(total), Some(loss)) = (run.steps, run.total_steps, run.last_loss) {
            "step " (step) " of " (total) ", loss " (parts::loss(loss))
        } @else { "before its first step" }
    }
}

fn older(page: &RunPage, path: &str) -> Markup {
    html! {
        @if let Some(next) = &page.next {
            p.pages { (page.runs.len()) " of " (page.total) ". " a href={ (path) "?after=" (next) } { "Older ones" } }
        }
    }
}
