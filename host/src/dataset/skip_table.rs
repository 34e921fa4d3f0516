use std::collections::BTreeMap;

/// How many spans, examples or pairs were left out, by reason: the table that a run prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct SkipTable {
    counts: BTreeMap<String, u64>,
}

/// Rows that plugins may fill: theirs are a handful of fixed phrases, and a table of one row a span tells nobody
/// anything.
const MAX_REASONS: usize = 1000;

/// Where the reasons beyond [`MAX_REASONS`] are counted.
const OTHER: &str = "other reasons";

impl SkipTable {
    /// Counts one more for a reason in a plugin's words.
    pub fn add_of_plugin(&mut self, reason: &str) {
        let full = self.counts.len() >= MAX_REASONS && !self.counts.contains_key(reason);
        self.add(if full { OTHER } else { reason });
    }

    /// Counts one more for this reason.
    pub fn add(&mut self, reason: &str) {
        self.add_many(reason, 1);
    }

    /// Counts `count` more for this reason; no row appears for 0.
    pub fn add_many(&mut self, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.counts.get_mut(reason) {
            Some(total) => *total += count,
            None => drop(self.counts.insert(reason.to_owned(), count)),
        }
    }

    /// The rows, the largest count first, equal counts by reason.
    pub fn rows(&self) -> Vec<(&str, u64)> {
        let mut rows: Vec<_> = self.counts.iter().map(|(reason, &count)| (reason.as_str(), count)).collect();
        rows.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        rows
    }

    /// The count of one reason.
    pub fn count(&self, reason: &str) -> u64 {
        self.counts.get(reason).copied().unwrap_or(0)
    }

    /// All that was left out.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_largest_first_and_equal_ones_by_reason() {
        let mut table = SkipTable::default();
        table.add("no verdict");
        table.add_many("empty output", 3);
        table.add("failed span");
        table.add_many("never", 0);
        table.add("no verdict");
        table.add("failed span");
        assert_eq!(table.rows(), [("empty output", 3), ("failed span", 2), ("no verdict", 2)]);
        assert_eq!((table.total(), table.count("never")), (7, 0));
        assert_eq!(serde_json::to_string(&table).unwrap(), r#"{"empty output":3,"failed span":2,"no verdict":2}"#);
    }
    #[test]
    fn a_flood_of_reasons_ends_in_one_row() {
        let mut table = SkipTable::default();
        for index in 0..1500 {
            table.add_of_plugin(&format!("reason {index}"));
        }
        table.add_of_plugin("reason 7");
        table.add("duplicate");
        assert_eq!((table.count("other reasons"), table.count("reason 7"), table.count("duplicate")), (500, 2, 1));
        assert_eq!((table.rows().len(), table.total()), (1002, 1502));
    }
}
