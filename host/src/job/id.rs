use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of the digest that a name has: 80 bits.
const DIGITS: usize = 20;
/// Characters of the tenant's name that a name has.
const TENANT: usize = 16;

/// A job's name, whatever engine it runs on and however often it is tried: `{tenant}-{first 20 digits of its digest}`.
///
/// In lower case, digits and single hyphens, at most 37 characters: what SageMaker, Kubernetes, Azure ML, Ray and Slurm all take,
/// an attempt's number included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobKey(String);

/// One attempt at a job: `{key}-{attempt}`. Engines know jobs by this.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobId {
    /// The job.
    pub key: JobKey,
    /// From 1.
    pub attempt: u32,
}

impl JobKey {
    /// Of a tenant's job with `digest`, 64 hexadecimal digits.
    pub fn new(tenant_id: &str, digest: &str) -> Self {
        let mut tenant = String::new();
        for c in tenant_id.chars().map(|c| c.to_ascii_lowercase()) {
            match c {
                'a'..='z' | '0'..='9' => tenant.push(c),
                _ if !tenant.is_empty() && !tenant.ends_with('-') => tenant.push('-'),
                _ => {}
            }
        }
        tenant.truncate(TENANT);
        let tenant = tenant.trim_end_matches('-');
        let digits = &digest[..digest.len().min(DIGITS)];
        // A name begins with a letter everywhere.
        let tenant =
            if tenant.starts_with(|c: char| c.is_ascii_lowercase()) { tenant.to_owned() } else { format!("t{tenant}") };
        Self(format!("{tenant}-{digits}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One attempt at it, from 1.
    pub fn attempt(&self, attempt: u32) -> JobId {
        JobId { key: self.clone(), attempt }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.key, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_every_engine_takes() {
        let digest = "0123456789abcdef".repeat(4);
        let name = |tenant| JobKey::new(tenant, &digest).attempt(2).to_string();
        assert_eq!(name("acme"), "acme-0123456789abcdef0123-2");
        assert_eq!(name("Acme_Search.EU--prod-and-more"), "acme-search-eu-p-0123456789abcdef0123-2");
        assert_eq!(name("7-eleven"), "t7-eleven-0123456789abcdef0123-2");
        assert_eq!(name("__"), "t-0123456789abcdef0123-2");
    }
}
