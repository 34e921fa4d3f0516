//! `/runs/{name}`: a run while it trains, and what is known of it afterwards.

use maud::{Markup, html};

use super::parts;
use super::plot::{Line, Plot};
use crate::server::run_folders::{Count, LineageRow, PluginRow, RunDetails, RunState, Series};

/// Rows of a table that a person would read.
const MOST_ROWS: usize = 50;

/// What of the page changes while the run trains: the element's id, and what is in it.
pub(super) fn changing(state: RunState, series: &Series) -> [(&'static str, Markup); 2] {
    [("live", live(state, series)), ("points", points(series))]
}

pub(super) fn run(run: &RunDetails) -> Markup {
    let summary = &run.summary;
    let [live, points] = changing(summary.state, &run.metrics).map(|(id, markup)| html! { div #(id) { (markup) } });
    let events = (summary.state == RunState::Training).then(|| super::path(&summary.name) + "/events");
    html! {
        nav.trail aria-label="Where this is" { a href="/runs" { "Runs" } }
        h1.run { (summary.name) }
        p.lead {
            (parts::state(summary.state)) " " (parts::verdict(summary))
            " " (summary.agent_type) " · " (summary.method) " · started " (parts::time(summary.started.as_deref()))
        }
        @for problem in &run.problems { p.alert { (problem) } }
        @if summary.state == RunState::Stopped {
            p.alert { "This run was stopped before its end. The same command with " code { "--resume" } " goes on from its last checkpoint." }
        }
        section data-events=[events] {
            h2 { "Training" }
            p #live-state role="status" {}
            (live)
            details { summary { "The figures behind these curves" } (points) }
        }
        @if let (Some(base), Some(adapter)) = (&summary.base, &summary.adapter) {
            section { h2 { "Adapter against base" } (parts::scores(base, adapter)) }
        }
        @if summary.state == RunState::Finished {
            section { h2 { "Facts" } (facts(run)) }
            section { h2 { "Left out" } (counts("Reason", &run.skipped, "Nothing was left out.")) }
            @if !run.redacted.is_empty() {
                section { h2 { "Redacted" } (counts("What", &run.redacted, "")) }
            }
            section { h2 { "Generated examples" } (synthetic(&run.lineage)) }
            section { h2 { "Examples from telemetry" } (real(&run.lineage)) }
            section { h2 { "Plugins" } (plugins(&run.plugins)) }
            @if !run.config.is_null() {
                section {
                    h2 { "Configuration" }
                    details {
                        summary { "As it ran" }
                        pre tabindex="0" { (serde_json::to_string_pretty(&run.config).unwrap_or_default()) }
                    }
                }
            }
        }
    }
}

fn live(state: RunState, series: &Series) -> Markup {
    let last = series.steps.last();
    let total = series.total_steps.unwrap_or(0);
    let done = last.map_or(0, |last| last.step);
    let held_out = series.evaluations.last();
    html! {
        @if state == RunState::Training {
            progress.steps aria-label="Steps done" value=(done) max=(total.max(1)) {}
        }
        dl.tiles {
            div { dt { "Steps" } dd { @if done == 0 { "before the first" } @else { (done) @if total > 0 { " of " (total) } } } }
            div { dt { "Training loss" } dd { (parts::or_dash(last.map(|last| parts::loss(last.loss)))) } }
            div { dt { "Held-out loss" } dd { (parts::or_dash(held_out.map(|it| parts::loss(it.loss)))) } }
            div { dt { "Learning rate" } dd { (parts::or_dash(last.map(|last| parts::learning_rate(last.learning_rate)))) } }
        }
        @if !series.steps.is_empty() { div.plots { (loss(state, series)) (learning_rate(state, series)) } }
    }
}

/// The axis of a run that trains is as long as the run will be.
fn last_step(state: RunState, series: &Series) -> usize {
    let done = series.steps.last().map_or(0, |last| last.step);
    match state {
        RunState::Training => series.total_steps.unwrap_or(done),
        RunState::Stopped | RunState::Finished => done,
    }
}

fn loss(state: RunState, series: &Series) -> Markup {
    let training = series.steps.iter().map(|it| (it.step as f64, it.loss)).collect();
    let held_out: Vec<_> = series.evaluations.iter().map(|it| (it.step as f64, it.loss)).collect();
    let mut description = match (series.steps.first(), series.steps.last()) {
        (Some(first), Some(last)) => format!(
            "The training loss goes from {} at step {} to {} at step {}.",
            parts::loss(first.loss),
            first.step,
            parts::loss(last.loss),
            last.step
        ),
        _ => String::new(),
    };
    if let (Some(first), Some(last)) = (series.evaluations.first(), series.evaluations.last()) {
        let (from, to) = (parts::loss(first.loss), parts::loss(last.loss));
        description.push_str(&format!(
            " The held-out loss goes from {from} at step {} to {to} at step {}.",
            first.step, last.step
        ));
    }
    let mut lines = vec![Line { name: "training", class: "training", points: training, dots: false }];
    if !held_out.is_empty() {
        lines.push(Line { name: "held out", class: "held-out", points: held_out, dots: true });
    }
    let last_step = last_step(state, series);
    let number = |value: f64| format!("{}", (value * 1e6).round() / 1e6);
    Plot { id: "loss", title: "Loss", description, last_step, lines, from_zero: false, number }.draw()
}

fn learning_rate(state: RunState, series: &Series) -> Markup {
    let points = series.steps.iter().map(|it| (it.step as f64, it.learning_rate)).collect();
    let description = match (series.steps.first(), series.steps.last()) {
        (Some(first), Some(last)) => format!(
            "It goes from {} at step {} to {} at step {}.",
            parts::learning_rate(first.learning_rate),
            first.step,
            parts::learning_rate(last.learning_rate),
            last.step
        ),
        _ => String::new(),
    };
    let lines = vec![Line { name: "learning rate", class: "rate", points, dots: false }];
    let last_step = last_step(state, series);
    Plot {
        id: "rate",
        title: "Learning rate",
        description,
        last_step,
        lines,
        from_zero: true,
        number: parts::learning_rate,
    }
    .draw()
}

fn points(series: &Series) -> Markup {
    let shown = parts::evenly(&series.steps, MOST_ROWS);
    html! {
        div.wide tabindex="0" role="region" aria-label="Training by step" {
            table {
                caption { (shown.len()) " of " (series.steps.len()) " steps" }
                thead { tr {
                    th.figure scope="col" { "Step" }
                    th.figure scope="col" { "Epoch" }
                    th.figure scope="col" { "Loss" }
                    th.figure scope="col" { "Learning rate" }
                    th.figure scope="col" { "Gradient" }
                } }
                tbody {
                    @for it in shown {
                        tr {
                            th.figure scope="row" { (it.step) }
                            td.figure { (format!("{:.2}", it.epoch)) }
                            td.figure { (parts::loss(it.loss)) }
                            td.figure { (parts::learning_rate(it.learning_rate)) }
                            td.figure { (format!("{:.3}", it.grad_norm)) }
                        }
                    }
                }
            }
            @if !series.evaluations.is_empty() {
                table {
                    caption { "Held-out scores" }
                    thead { tr {
                        th.figure scope="col" { "Step" }
                        th.figure scope="col" { "Loss" }
                        th.figure scope="col" { "Right" }
                        th scope="col" { "Best so far" }
                    } }
                    tbody {
                        @for it in &series.evaluations {
                            tr {
                                th.figure scope="row" { (it.step) }
                                td.figure { (parts::loss(it.loss)) }
                                td.figure { (format!("{:.1}%", 100.0 * it.accuracy)) }
                                td { (if it.best { "yes" } else { "no" }) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facts(run: &RunDetails) -> Markup {
    let summary = &run.summary;
    let digest = |digest: &Option<String>| {
        html! {
            @match digest { Some(digest) => code { (digest) }, None => "–" }
        }
    };
    let generated = run.lineage.iter().filter(|row| row.synthetic.is_some()).count();
    html! {
        dl.facts {
            dt { "Project" } dd { (parts::or_dash(summary.project.as_deref())) }
            dt { "Base model" } dd { (parts::or_dash(summary.base_model.as_deref())) }
            dt { "Why this method" } dd { (parts::or_dash(run.reason.as_deref())) }
            dt { "Examples" } dd {
                (parts::or_dash(summary.n_train)) " to train, " (parts::or_dash(summary.n_held_out)) " held out, from "
                (parts::or_dash(run.spans)) " spans; " (generated) " of them generated and approved"
            }
            dt { "Device" } dd { (parts::or_dash(run.device.as_deref())) }
            dt { "Took" } dd {
                (parts::or_dash(run.total_s.map(|s| format!("{s:.1} s")))) ", "
                (parts::or_dash(run.tokens_per_second.map(|n| format!("{n:.0}")))) " tokens/s"
            }
            dt { "Made by" } dd { "Tunesmith " (parts::or_dash(run.version.as_deref())) }
            dt { "SHA-256 of the base" } dd { (digest(&run.base_sha256)) }
            dt { "SHA-256 of the records" } dd { (digest(&run.dataset_sha256)) }
        }
    }
}

fn counts(what: &str, counts: &[Count], none: &str) -> Markup {
    html! {
        @if counts.is_empty() { p { (none) } } @else {
            table.figures {
                thead { tr { th scope="col" { (what) } th.figure scope="col" { "Count" } } }
                tbody { @for it in counts { tr { th scope="row" { (it.what) } td.figure { (it.count) } } } }
            }
        }
    }
}

/// All of them: each was let in by somebody.
fn synthetic(lineage: &[LineageRow]) -> Markup {
    let rows: Vec<_> = lineage.iter().filter_map(|row| row.synthetic.as_ref()).collect();
    html! {
        @if rows.is_empty() { p { "None: all examples are from telemetry." } } @else {
            p { (rows.len()) " generated, each approved by a person before it trained:" }
            table.stack {
                thead { tr {
                    th scope="col" { "Item" }
                    th scope="col" { "Approved by" }
                    th scope="col" { "When" }
                    th scope="col" { "Text" }
                    th scope="col" { "Generator" }
                } }
                tbody {
                    @for it in rows {
                        tr {
                            th scope="row" {
                                @match it.item {
                                    Some(item) => a href={ "/review/items/" (item) } { "Item " (item) },
                                    None => "unknown",
                                }
                            }
                            td data-label="Approved by" { (parts::or_dash(it.approved_by.as_deref())) }
                            td data-label="When" { (parts::time_ms(it.approved_at_ms)) }
                            td data-label="Text" { (if it.edited { "edited first" } else { "as it came" }) }
                            td data-label="Generator" { (parts::or_dash(it.generator.as_deref())) }
                        }
                    }
                }
            }
        }
    }
}

fn real(lineage: &[LineageRow]) -> Markup {
    let rows: Vec<_> = lineage.iter().filter(|row| row.synthetic.is_none()).collect();
    let n = rows.len();
    html! {
        @if rows.is_empty() { p { "None." } } @else {
            details {
                summary { "The spans behind " (n) " examples" }
                div.wide tabindex="0" role="region" aria-label="Spans" {
                    table {
                        @if n > MOST_ROWS { caption { "The first " (MOST_ROWS) " of " (n) ": the run's " code { "run.json" } " has all" } }
                        thead { tr {
                            th scope="col" { "Spans" }
                            th scope="col" { "Trace" }
                            th scope="col" { "Session" }
                            th scope="col" { "Set" }
                        } }
                        tbody {
                            @for row in rows.into_iter().take(MOST_ROWS) {
                                tr {
                                    th scope="row" { code { (row.span_ids.join(" ")) } }
                                    td { code { (parts::or_dash(row.trace_id.as_deref())) } }
                                    td { code { (parts::or_dash(row.session_id.as_deref())) } }
                                    td { (row.set.replace('_', " ")) @if row.corrected { ", corrected" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn plugins(plugins: &[PluginRow]) -> Markup {
    html! {
        @if plugins.is_empty() { p { "None is named." } } @else {
            table.stack {
                thead { tr {
                    th scope="col" { "Plugin" }
                    th scope="col" { "Kind" }
                    th scope="col" { "From" }
                    th scope="col" { "SHA-256" }
                    th.figure scope="col" { "Calls" }
                    th.figure scope="col" { "Time" }
                } }
                tbody {
                    @for it in plugins {
                        tr {
                            th scope="row" { (it.name) " " (it.version) }
                            td data-label="Kind" { (it.kind) }
                            td data-label="From" {
                                (it.origin) @if let Some(signer) = &it.signer { ", signed by " code { (signer) } }
                            }
                            td data-label="SHA-256" { code title=(it.sha256) { (it.sha256.get(..12).unwrap_or(&it.sha256)) "…" } }
                            td.figure data-label="Calls" { (parts::or_dash(it.calls)) }
                            td.figure data-label="Time" { (parts::or_dash(it.wall_s.map(|s| format!("{:.1} ms", 1e3 * s)))) }
                        }
                    }
                }
            }
        }
    }
}
