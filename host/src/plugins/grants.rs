//! What an operator grants the plugins of a tenant: `[defaults.plugins]` and `[tenants.NAME.plugins]` of the
//! operator's file. A plugin gets what it asks for as far as it is granted.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use super::allowance::Want;
use super::limit_settings::LimitSettings;
use super::reference::Sha256Hex;
use super::signature::PublicKey;

/// The grants of one tenant. The default grants everything and demands nothing: somebody who runs their own plugins on
/// their own machine has no operator above them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginGrants {
    /// What a plugin may want.
    pub wants: BTreeSet<Want>,
    /// The most wall time of a call.
    pub max_deadline_ms: Option<NonZeroU32>,
    /// The most instructions of a call; where this is set, they are counted.
    pub max_fuel: Option<NonZeroU64>,
    /// The most memory of an instance.
    pub max_memory_mib: Option<NonZeroU32>,
    /// The most elements of a table.
    pub max_table_elements: Option<NonZeroU32>,
    /// The most that a call may hand back.
    pub max_output_mib: Option<NonZeroU32>,
    /// The most examples for each span of a batch.
    pub max_records_per_span: Option<NonZeroU32>,
    /// The most that a call may log; 0 is nothing.
    pub max_log_kib: Option<u32>,
    /// The largest component.
    pub max_component_mib: Option<NonZeroU32>,
    /// The most call stack.
    pub max_stack_kib: Option<NonZeroU32>,
    /// Whether a component has to be named with its digest.
    pub require_pin: bool,
    /// Whether a component has to be signed, by one of `trusted_keys`.
    pub require_signature: bool,
    /// Whose signatures count; a signature of any other key is refused as soon as one is listed or a signature is required.
    pub trusted_keys: Vec<PublicKey>,
    /// The components that may be used; any, where there is no such list.
    pub allowed_digests: Option<Vec<Sha256Hex>>,
    /// Whether the plugins that are built in may be used. They are the operator's own, so that nothing above but `wants`
    /// and the limits is asked of them.
    pub allow_built_in: bool,
}

impl Default for PluginGrants {
    fn default() -> Self {
        Self {
            wants: Want::ALL.into(),
            max_deadline_ms: None,
            max_fuel: None,
            max_memory_mib: None,
            max_table_elements: None,
            max_output_mib: None,
            max_records_per_span: None,
            max_log_kib: None,
            max_component_mib: None,
            max_stack_kib: None,
            require_pin: false,
            require_signature: false,
            trusted_keys: Vec::new(),
            allowed_digests: None,
            allow_built_in: true,
        }
    }
}

impl PluginGrants {
    /// The most that the limits of a plugin may be.
    pub fn maxima(&self) -> LimitSettings {
        LimitSettings {
            deadline_ms: self.max_deadline_ms,
            fuel: self.max_fuel,
            memory_mib: self.max_memory_mib,
            table_elements: self.max_table_elements,
            output_mib: self.max_output_mib,
            records_per_span: self.max_records_per_span,
            log_kib: self.max_log_kib,
            component_mib: self.max_component_mib,
            stack_kib: self.max_stack_kib,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_grants_everything_and_an_unknown_key_is_an_error() {
        assert_eq!(toml::from_str::<PluginGrants>("").unwrap(), PluginGrants::default());
        let error = |text| toml::from_str::<PluginGrants>(text).unwrap_err().to_string();
        assert!(error("max_deadlines = 1").contains("unknown field `max_deadlines`"));
        assert!(error("trusted_keys = [\"mine\"]").contains("`mine` is no public key: "));
        assert!(error("allowed_digests = [\"sha256:12\"]").contains("`sha256:12` is no SHA-256: "));
        assert!(error("wants = [\"files\"]").contains("unknown variant `files`"));
    }

    #[test]
    fn grants_are_read_key_by_key() {
        let digest = "ab".repeat(32);
        let text = format!(
            "wants = [\"log\"]\nmax_deadline_ms = 250\nrequire_pin = true\nallowed_digests = [\"{digest}\"]\n\
             allow_built_in = false\n"
        );
        let grants: PluginGrants = toml::from_str(&text).unwrap();
        assert_eq!(grants.wants, BTreeSet::from([Want::Log]));
        assert_eq!(grants.maxima(), LimitSettings { deadline_ms: NonZeroU32::new(250), ..LimitSettings::default() });
        assert_eq!(grants.allowed_digests, Some(vec![digest.parse().unwrap()]));
        assert!(grants.require_pin && !grants.require_signature && !grants.allow_built_in);
    }
}
