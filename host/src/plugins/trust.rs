//! Whether a plugin is the one that was meant, and may do what it wants: pins, allow-lists, signatures, grants.

use std::path::PathBuf;

use super::allowance::Want;
use super::manifest::PluginKind;
use super::reference::Sha256Hex;
use super::registry::PluginPackage;
use super::resolution::Resolution;
use super::signature::PublicKey;

/// Why a plugin is not used although it could be.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The component has another digest than its pin.
    #[error(
        "plugin `{plugin}` is not the one that is pinned: its component is sha256:{found}, its pin says sha256:{pin}; put the pinned file back, or pin the new one if the change is meant"
    )]
    OtherThanPinned {
        /// As it is configured.
        plugin: String,
        /// The pin.
        pin: Sha256Hex,
        /// What is there.
        found: String,
    },
    /// The operator demands a pin.
    #[error(
        "plugin `{plugin}` is not pinned, as every plugin of tenant `{tenant}` has to be; name it `{plugin}@sha256:{found}`"
    )]
    NotPinned {
        /// As it is configured.
        plugin: String,
        /// Whose plugin it is.
        tenant: String,
        /// What is there.
        found: String,
    },
    /// The operator lists the components that may be used, and this is none of them.
    #[error(
        "plugin `{plugin}` is none that tenant `{tenant}` may use; use another, or add \"sha256:{found}\" to `allowed_digests` in {}", place(.tenant)
    )]
    NotAllowed {
        /// As it is configured.
        plugin: String,
        /// Whose plugin it is.
        tenant: String,
        /// What is there.
        found: String,
    },
    /// The operator keeps the built-in plugins from a tenant.
    #[error(
        "tenant `{tenant}` may not use built-in plugins such as `{plugin}`; name another {kind}, or set `allow_built_in = true` in {}", place(.tenant)
    )]
    BuiltIn {
        /// The plugin.
        plugin: String,
        /// Whose plugin it is.
        tenant: String,
        /// What it would be.
        kind: PluginKind,
    },
    /// The operator demands a signature.
    #[error(
        "plugin `{plugin}` is not signed, as every plugin of tenant `{tenant}` has to be; put its maker's `.wasm.sig` beside it, or sign it with `tunesmith plugins sign`"
    )]
    Unsigned {
        /// The plugin.
        plugin: String,
        /// Whose plugin it is.
        tenant: String,
    },
    /// A signature file that is none.
    #[error(
        "`{}` is no signature, which is one line, `ed25519 KEY SIGNATURE`; copy it again, or sign the plugin with `tunesmith plugins sign`", path.display()
    )]
    NoSignature {
        /// The file.
        path: PathBuf,
    },
    /// A signature without what it signs.
    #[error("`{}` signs a manifest that is not there; put the plugin's `plugin.toml` back beside it", path.display())]
    SignedManifestMissing {
        /// The signature file.
        path: PathBuf,
    },
    /// A signature of something else.
    #[error(
        "plugin `{plugin}` is not what {key} signed: its component, its manifest or its signature was changed or swapped; get all three again from its maker, or sign it anew"
    )]
    OtherThanSigned {
        /// The plugin.
        plugin: String,
        /// Whose signature it says it is.
        key: PublicKey,
    },
    /// A signature of nobody that the operator trusts.
    #[error(
        "plugin `{plugin}` is signed by {key}, whom tenant `{tenant}` does not trust; add the key to `trusted_keys` in {} if you do", place(.tenant)
    )]
    UntrustedKey {
        /// The plugin.
        plugin: String,
        /// Whose signature it is.
        key: PublicKey,
        /// Whose plugin it is.
        tenant: String,
    },
    /// The plugin asks for what its tenant is not granted.
    #[error("plugin `{plugin}` wants `{want}`, which tenant `{tenant}` is not granted; add \"{want}\" to `wants` in {}, or use another plugin", place(.tenant))]
    NotGranted {
        /// The plugin.
        plugin: String,
        /// What it asks for.
        want: Want,
        /// Whose plugin it is.
        tenant: String,
    },
    /// Settings for a plugin that does not ask for any.
    #[error(
        "plugin `{plugin}` takes no settings, and is given `{}`; add \"settings\" to `wants` in its `plugin.toml`, or leave them out", settings.join("`, `")
    )]
    SettingsUnasked {
        /// The plugin.
        plugin: String,
        /// The settings' keys.
        settings: Vec<String>,
    },
}

fn place(tenant: &str) -> String {
    format!("`[tenants.{tenant}.plugins]` or `[defaults.plugins]` of the operator's file")
}

/// Everything that keeps `package` from serving as `resolution` says; a signature that is wrong is told already.
pub(super) fn problems(package: &PluginPackage, wrongly_signed: bool, resolution: &Resolution) -> Vec<TrustError> {
    let Resolution { choice, tenant, grants, .. } = resolution;
    let (name, found) = (&package.manifest.name, &package.digest);
    let plugin = choice.plugin.plugin.to_string();
    let built_in = matches!(package.origin, super::PluginRef::BuiltIn(_));
    let mut problems = Vec::new();
    match &choice.plugin.pin {
        Some(pin) if pin.as_str() != found => problems.push(TrustError::OtherThanPinned {
            plugin: plugin.clone(),
            pin: pin.clone(),
            found: found.clone(),
        }),
        None if grants.require_pin && !built_in => problems.push(TrustError::NotPinned {
            plugin: plugin.clone(),
            tenant: tenant.clone(),
            found: found.clone(),
        }),
        _ => {}
    }
    if built_in {
        if !grants.allow_built_in {
            problems.push(TrustError::BuiltIn { plugin, tenant: tenant.clone(), kind: resolution.kind });
        }
    } else {
        let allowed = |digests: &Vec<Sha256Hex>| digests.iter().any(|digest| digest.as_str() == found);
        if !grants.allowed_digests.as_ref().is_none_or(allowed) {
            problems.push(TrustError::NotAllowed { plugin, tenant: tenant.clone(), found: found.clone() });
        }
        match package.signer {
            None if grants.require_signature && !wrongly_signed => {
                problems.push(TrustError::Unsigned { plugin: name.clone(), tenant: tenant.clone() });
            }
            Some(key)
                if !grants.trusted_keys.contains(&key)
                    && (grants.require_signature || !grants.trusted_keys.is_empty()) =>
            {
                problems.push(TrustError::UntrustedKey { plugin: name.clone(), key, tenant: tenant.clone() });
            }
            _ => {}
        }
    }
    for &want in package.manifest.wants.difference(&grants.wants) {
        problems.push(TrustError::NotGranted { plugin: name.clone(), want, tenant: tenant.clone() });
    }
    if !package.manifest.wants.contains(&Want::Settings) && !resolution.settings.is_empty() {
        problems.push(TrustError::SettingsUnasked { plugin: name.clone(), settings: resolution.settings.clone() });
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::super::engine::digest;
    use super::super::{LimitSettings, Limits, PluginGrants, PluginRef, SigningKey};
    use super::*;

    /// A folder with `mine.wasm`, which nobody compiles here, and its manifest.
    fn folder(more: &str) -> (tempfile::TempDir, Resolution) {
        let root = tempfile::tempdir().unwrap();
        let wasm = root.path().join("mine.wasm");
        std::fs::write(&wasm, "mine").unwrap();
        let manifest = format!(
            "name = \"mine\"\nversion = \"1\"\nkind = \"formatter\"\nwit = \"0.1\"\ndescription = \"\"\nagent_types = [\"*\"]\n{more}"
        );
        std::fs::write(root.path().join("plugin.toml"), manifest).unwrap();
        let mut resolution = Resolution::of(PluginRef::File(wasm), PluginKind::Formatter, Some("routing"));
        resolution.tenant = "acme".into();
        (root, resolution)
    }

    /// What is wrong, with `mine` for the path of the plugin.
    fn problems_under(resolution: &Resolution, grants: PluginGrants) -> Vec<String> {
        let resolution = Resolution { grants, ..resolution.clone() };
        let path = resolution.choice.plugin.plugin.to_string();
        let problems = resolution.inspect().unwrap().problems;
        problems.iter().map(|problem| problem.to_string().replace(&path, "mine.wasm")).collect()
    }

    const PLACE: &str = "`[tenants.acme.plugins]` or `[defaults.plugins]` of the operator's file";

    #[test]
    fn a_want_that_is_not_granted_names_plugin_want_tenant_and_key() {
        let (_root, resolution) = folder("wants = [\"log\", \"settings\"]\n");
        assert_eq!(problems_under(&resolution, PluginGrants::default()), [""; 0]);
        let grants = PluginGrants { wants: BTreeSet::from([Want::Settings, Want::Wasi]), ..PluginGrants::default() };
        assert_eq!(
            problems_under(&resolution, grants.clone()),
            [format!(
                "plugin `mine` wants `log`, which tenant `acme` is not granted; add \"log\" to `wants` in {PLACE}, or use \
                 another plugin"
            )]
        );
        let package = Resolution { grants, ..resolution }.inspect().unwrap().package;
        assert_eq!(package.allowance.wants, BTreeSet::from([Want::Settings]));
    }

    #[test]
    fn limits_are_what_is_asked_or_configured_and_never_above_what_is_granted() {
        let (_root, mut resolution) = folder("[limits]\ndeadline_ms = 9000\nmemory_mib = 8\n");
        let limits = |resolution: &Resolution| resolution.package().unwrap().allowance.limits;
        let asked = Limits { deadline: Duration::from_secs(9), memory_bytes: 8 << 20, ..Limits::default() };
        assert_eq!(limits(&resolution), asked);
        resolution.grants.max_deadline_ms = NonZeroU32::new(1000);
        resolution.grants.max_output_mib = NonZeroU32::new(2);
        resolution.grants.max_memory_mib = NonZeroU32::new(1 << 20);
        let granted = Limits { deadline: Duration::from_secs(1), output_bytes: 2 << 20, ..asked };
        assert_eq!(limits(&resolution), granted);
        resolution.limits = LimitSettings { deadline_ms: NonZeroU32::new(20), ..LimitSettings::default() };
        assert_eq!(limits(&resolution), Limits { deadline: Duration::from_millis(20), ..granted });
    }

    #[test]
    fn a_tenant_that_has_to_pin_can_not_leave_it_out() {
        let (_root, mut resolution) = folder("");
        let grants = PluginGrants { require_pin: true, ..PluginGrants::default() };
        let sha256 = digest(b"mine");
        assert_eq!(
            problems_under(&resolution, grants.clone()),
            [format!(
                "plugin `mine.wasm` is not pinned, as every plugin of tenant `acme` has to be; name it \
                 `mine.wasm@sha256:{sha256}`"
            )]
        );
        resolution.choice.plugin.pin = Some(sha256.parse().unwrap());
        assert_eq!(problems_under(&resolution, grants), [""; 0]);
    }

    #[test]
    fn only_components_of_the_operators_list_are_used_where_there_is_one() {
        let (_root, resolution) = folder("");
        let sha256 = digest(b"mine");
        let grants =
            |digests: Vec<Sha256Hex>| PluginGrants { allowed_digests: Some(digests), ..PluginGrants::default() };
        assert_eq!(
            problems_under(&resolution, grants(vec![])),
            [format!(
                "plugin `mine.wasm` is none that tenant `acme` may use; use another, or add \"sha256:{sha256}\" to \
                 `allowed_digests` in {PLACE}"
            )]
        );
        assert_eq!(problems_under(&resolution, grants(vec![sha256.parse().unwrap()])), [""; 0]);
    }

    #[test]
    fn built_in_plugins_are_the_operators_to_give_and_need_neither_pin_nor_signature() {
        let policy = PluginRef::parse("threshold-policy");
        let mut resolution = Resolution::of(policy, PluginKind::Policy, Some("routing"));
        resolution.tenant = "acme".into();
        let strict = PluginGrants {
            require_pin: true,
            require_signature: true,
            allowed_digests: Some(vec![]),
            ..PluginGrants::default()
        };
        assert_eq!(problems_under(&resolution, strict.clone()), [""; 0]);
        assert_eq!(
            problems_under(&resolution, PluginGrants { allow_built_in: false, ..strict }),
            [format!(
                "tenant `acme` may not use built-in plugins such as `mine.wasm`; name another policy, or set \
                 `allow_built_in = true` in {PLACE}"
            )]
        );
    }

    #[test]
    fn a_signature_is_demanded_and_has_to_be_of_a_trusted_key() {
        let (root, resolution) = folder("");
        let demand = |trusted_keys: &[PublicKey]| PluginGrants {
            require_signature: true,
            trusted_keys: trusted_keys.to_vec(),
            ..PluginGrants::default()
        };
        let key = SigningKey::create(&root.path().join("key")).unwrap();
        let other = SigningKey::create(&root.path().join("other")).unwrap();
        assert_eq!(
            problems_under(&resolution, demand(&[key.public()])),
            [
                "plugin `mine` is not signed, as every plugin of tenant `acme` has to be; put its maker's `.wasm.sig` beside \
              it, or sign it with `tunesmith plugins sign`"
            ]
        );
        PluginPackage::sign(&root.path().join("mine.wasm"), &key).unwrap();
        assert_eq!(problems_under(&resolution, demand(&[other.public(), key.public()])), [""; 0]);
        assert_eq!(resolution.package().unwrap().signer, Some(key.public()));

        let untrusted = [format!(
            "plugin `mine` is signed by {}, whom tenant `acme` does not trust; add the key to `trusted_keys` in {PLACE} if \
             you do",
            key.public()
        )];
        assert_eq!(problems_under(&resolution, demand(&[other.public()])), untrusted);
        assert_eq!(problems_under(&resolution, demand(&[])), untrusted);
        // Where keys are listed, another's signature is an error even if none is demanded.
        let optional = |keys: &[PublicKey]| PluginGrants { require_signature: false, ..demand(keys) };
        assert_eq!(problems_under(&resolution, optional(&[other.public()])), untrusted);
        assert_eq!(problems_under(&resolution, optional(&[])), [""; 0]);
    }

    #[test]
    fn a_wrong_signature_is_one_problem_whatever_is_demanded() {
        let (root, resolution) = folder("");
        let key = SigningKey::create(&root.path().join("key")).unwrap();
        PluginPackage::sign(&root.path().join("mine.wasm"), &key).unwrap();
        std::fs::write(root.path().join("mine.wasm"), "changed").unwrap();
        let wrong = [format!(
            "plugin `mine` is not what {} signed: its component, its manifest or its signature was changed or swapped; get \
             all three again from its maker, or sign it anew",
            key.public()
        )];
        for require_signature in [false, true] {
            let grants = PluginGrants { require_signature, ..PluginGrants::default() };
            assert_eq!(problems_under(&resolution, grants), wrong);
        }
    }
}
