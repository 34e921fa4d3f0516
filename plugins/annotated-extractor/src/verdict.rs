//! What annotations say of an output. A label decides; a score does only where a score rule names its annotation.

use crate::extraction::VerdictRules;
use crate::text::{attribute, field, written};
use crate::types::Annotation;

/// # Errors
/// A text that names the key which contradicts itself or lets nothing count.
pub(crate) fn validate(rules: &VerdictRules) -> Result<(), String> {
    if rules.annotator_kinds.is_empty() {
        return Err("`annotator_kinds` is empty; name whose annotations count, such as HUMAN".into());
    }
    let rejected = normalized(&rules.rejected_labels);
    if let Some(both) = normalized(&rules.approved_labels).iter().find(|label| rejected.contains(label)) {
        return Err(format!("label `{both}` is in `approved_labels` and in `rejected_labels`; keep it in one"));
    }
    for rule in &rules.score_rules {
        if let (Some(approve), Some(reject)) = (rule.approve_at_least, rule.reject_below)
            && reject > approve
        {
            let name = &rule.annotation_name;
            return Err(format!(
                "the score rule for `{name}` both approves and rejects some scores; `reject_below` must not be above `approve_at_least`"
            ));
        }
    }
    Ok(())
}

/// What the annotations of one output amount to, with the names of those that decided.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Approved { names: Vec<String> },
    Rejected { names: Vec<String> },
    Corrected { output: String, names: Vec<String> },
    Conflicting { approving: Vec<String>, rejecting: Vec<String> },
    Missing,
}

/// Reads verdicts by the operator's rules.
pub(crate) struct Judge {
    /// Labels are lower-case and trimmed.
    rules: VerdictRules,
    output_key: Option<String>,
}

enum Opinion {
    Approves,
    Rejects,
    Corrects(String),
}

impl Judge {
    /// A correction that is a JSON object is read by `output_key`, as outputs are.
    pub(crate) fn new(mut rules: VerdictRules, output_key: Option<&str>) -> Self {
        for labels in [&mut rules.approved_labels, &mut rules.rejected_labels, &mut rules.explanation_correction_labels]
        {
            *labels = normalized(labels);
        }
        Self { rules, output_key: output_key.map(str::to_string) }
    }

    /// The verdict on `output` by the first annotator kind, in the configured order, that has an opinion.
    pub(crate) fn verdict<'a>(&self, annotations: impl Iterator<Item = &'a Annotation>, output: &str) -> Verdict {
        let standing = self.standing(annotations);
        for kind in &self.rules.annotator_kinds {
            let (mut approving, mut rejecting, mut corrections) = (Vec::new(), Vec::new(), Vec::new());
            for annotation in standing.iter().filter(|annotation| annotation.annotator_kind == *kind) {
                let name = annotation.name.clone();
                match self.opinion(annotation, output) {
                    Some(Opinion::Approves) => approving.push(name),
                    Some(Opinion::Rejects) => rejecting.push(name),
                    Some(Opinion::Corrects(output)) => corrections.push((time(annotation), output, name)),
                    None => {}
                }
            }
            let newest = corrections.into_iter().max_by_key(|(time, ..)| *time);
            match (approving.is_empty(), rejecting.is_empty(), newest) {
                (false, false, _) => return Verdict::Conflicting { approving, rejecting },
                (_, _, Some((_, output, name))) => return Verdict::Corrected { output, names: vec![name] },
                (false, true, None) => return Verdict::Approved { names: approving },
                (true, false, None) => return Verdict::Rejected { names: rejecting },
                (true, true, None) => {}
            }
        }
        Verdict::Missing
    }

    /// Whether a standing correction only repeats `output`.
    pub(crate) fn repeats<'a>(&self, annotations: impl Iterator<Item = &'a Annotation>, output: &str) -> bool {
        !output.is_empty() && self.standing(annotations).iter().any(|it| self.correction(it).as_deref() == Some(output))
    }

    /// The annotations that count: the newest of each name. Where times are equal, the later in the list is newer.
    fn standing<'a>(&self, annotations: impl Iterator<Item = &'a Annotation>) -> Vec<&'a Annotation> {
        let mut standing: Vec<&Annotation> = Vec::new();
        for annotation in annotations.filter(|annotation| self.counts(annotation)) {
            match standing.iter_mut().find(|earlier| earlier.name == annotation.name) {
                Some(earlier) if time(earlier) > time(annotation) => {}
                Some(earlier) => *earlier = annotation,
                None => standing.push(annotation),
            }
        }
        standing
    }

    fn counts(&self, annotation: &Annotation) -> bool {
        let scored = || self.rules.score_rules.iter().any(|rule| rule.annotation_name == annotation.name);
        self.rules.annotator_kinds.contains(&annotation.annotator_kind) && (self.is_verdict(annotation) || scored())
    }

    fn is_verdict(&self, annotation: &Annotation) -> bool {
        self.rules.annotation_names.is_empty() || self.rules.annotation_names.contains(&annotation.name)
    }

    fn opinion(&self, annotation: &Annotation, output: &str) -> Option<Opinion> {
        match self.correction(annotation) {
            Some(correction) if correction != output => Some(Opinion::Corrects(correction)),
            // Who corrects an output into itself approves it, unless the label says otherwise.
            Some(_) => self.judgement(annotation).or(Some(Opinion::Approves)),
            None => self.judgement(annotation),
        }
    }

    /// The label's word where there is a label, whatever the score: the score may be the label's confidence.
    fn judgement(&self, annotation: &Annotation) -> Option<Opinion> {
        let label = label(annotation);
        match (label.is_empty(), annotation.score) {
            (false, _) if !self.is_verdict(annotation) => None,
            (false, _) if self.rules.approved_labels.contains(&label) => Some(Opinion::Approves),
            (false, _) if self.rules.rejected_labels.contains(&label) => Some(Opinion::Rejects),
            (true, Some(score)) => self.score_judgement(&annotation.name, score),
            _ => None,
        }
    }

    fn score_judgement(&self, name: &str, score: f64) -> Option<Opinion> {
        let rule = self.rules.score_rules.iter().find(|rule| rule.annotation_name == name)?;
        if rule.approve_at_least.is_some_and(|threshold| score >= threshold) {
            Some(Opinion::Approves)
        } else if rule.reject_below.is_some_and(|threshold| score < threshold) {
            Some(Opinion::Rejects)
        } else {
            None
        }
    }

    /// The corrected output in the annotation's metadata or explanation; blank ones are none.
    fn correction(&self, annotation: &Annotation) -> Option<String> {
        if !self.is_verdict(annotation) {
            return None;
        }
        let in_metadata = |key: &String| attribute(&annotation.metadata, key).and_then(written);
        let explains = self.rules.explanation_correction_labels.contains(&label(annotation));
        let explanation = annotation.explanation.clone().filter(|_| explains);
        let given = self.rules.correction_keys.iter().filter_map(in_metadata).chain(explanation);
        given.map(|text| field(&text, self.output_key.as_deref())).find(|text| !text.is_empty())
    }
}

/// What "newest" compares.
fn time(annotation: &Annotation) -> (u64, u64) {
    (annotation.updated_at_ns, annotation.created_at_ns)
}

fn label(annotation: &Annotation) -> String {
    annotation.label.as_deref().map(normalize).unwrap_or_default()
}

fn normalized(labels: &[String]) -> Vec<String> {
    labels.iter().map(|label| normalize(label)).collect()
}

fn normalize(label: &str) -> String {
    label.trim().to_lowercase()
}
