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
