//! `/runs` and `/adapters`: what there is, newest first.

use maud::{Markup, html};

use super::parts;
use crate::server::run_folders::{RunPage, RunState, RunSummary};

/// All runs, those under way among them.
pub(super) fn runs(page: &RunPage) -> Markup {
    html! {
        h1 { "Runs" }
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

/// Finished runs with what they came to.
pub(super) fn adapters(page: &RunPage) -> Markup {
    html! {
        h1 { "Adapters" }
        p { "An adapter is compared with its base on examples that neither was trained on. One that does not beat its base "
            "is kept, and told to be so." }
        @if page.runs.is_empty() {
            p.empty { "There is no adapter yet: a run gives one when it is finished. " a href="/runs" { "See the runs" } "." }
        } @else {
            table.stack {
                thead { tr {
                    th scope="col" { "Adapter" }
                    th scope="col" { "Verdict" }
                    th.figure scope="col" { "Loss, base" }
                    th.figure scope="col" { "adapter" }
                    th.figure scope="col" { "Right, base" }
                    th.figure scope="col" { "adapter" }
                    th.figure scope="col" { "Examples" }
                    th scope="col" { "Base model" }
                } }
                tbody {
                    @for run in &page.runs {
                        @let percent = |share: f64| format!("{:.1}%", 100.0 * share);
                        tr {
                            th scope="row" { a href=(super::path(&run.name)) { (run.name) } }
                            td data-label="Verdict" { (parts::verdict(run)) @if let Some(what) = &run.problem { " " (what) } }
                            td.figure data-label="Loss, base" { (parts::or_dash(run.base.map(|base| parts::loss(base.loss)))) }
                            td.figure data-label="Loss, adapter" {
                                (parts::or_dash(run.adapter.map(|adapter| parts::loss(adapter.loss))))
                            }
                            td.figure data-label="Right, base" {
                                (parts::or_dash(run.base.map(|base| percent(base.accuracy()))))
                            }
                            td.figure data-label="Right, adapter" {
                                (parts::or_dash(run.adapter.map(|adapter| percent(adapter.accuracy()))))
                            }
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
        p.pages {
            "There are " (page.total) ". "
            @if let Some(next) = &page.next { a href={ (path) "?after=" (next) } { "Older ones" } }
        }
    }
}
