//! The workspace's blobs: where a datastore lies, and the key to it, are asked of the workspace.

use std::collections::HashMap;
use std::sync::Mutex;

use reqwest::Method;
use serde_json::Value;

use super::arm::Arm;
use crate::artefacts::{ArtefactError, ArtefactStore};
use crate::remote::RemoteError;

/// The stores that were opened so far.
pub(super) struct Datastores {
    /// In place of the accounts' own addresses.
    endpoint: Option<String>,
    open: Mutex<HashMap<String, ArtefactStore>>,
}

impl Datastores {
    pub(super) fn new(endpoint: Option<String>) -> Self {
        Self { endpoint, open: Mutex::default() }
    }

    /// Does `work` in the datastore `name`: once more with a new key where the one that is known is refused.
    ///
    /// # Errors
    /// Those of the workspace and of `work`.
    pub(super) fn within<T>(
        &self,
        arm: &Arm,
        name: &str,
        work: impl Fn(&ArtefactStore) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let known = self.known().get(name).cloned();
        if let Some(store) = known {
            match work(&store) {
                Err(RemoteError::Artefacts(ArtefactError::Credentials { .. })) => drop(self.known().remove(name)),
                done => return done,
            }
        }
        let store = self.open(arm, name)?;
        self.known().insert(name.to_owned(), store.clone());
        work(&store)
    }

    fn open(&self, arm: &Arm, name: &str) -> Result<ArtefactStore, RemoteError> {
        let ask = |method, path: String| match arm.call(method, &path, None)? {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(arm.refused(&refusal)),
        };
        let datastore = ask(Method::GET, format!("datastores/{name}"))?;
        let secrets = ask(Method::POST, format!("datastores/{name}/listSecrets"))?;
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
        let properties = &datastore["properties"];
        let (Some(account), Some(container)) = (text(properties, "accountName"), text(properties, "containerName"))
        else {
            return Err(arm.protocol(format!("datastore `{name}` is none of blobs")));
        };
        let protocol = text(properties, "protocol").unwrap_or_else(|| "https".to_owned());
        let domain = text(properties, "endpoint").unwrap_or_else(|| "core.windows.net".to_owned());
        let endpoint = self.endpoint.clone().unwrap_or_else(|| format!("{protocol}://{account}.blob.{domain}"));
        let secret = match (text(&secrets, "key"), text(&secrets, "sasToken")) {
            (Some(key), _) => ("azure_storage_account_key", key),
            (None, Some(token)) => ("azure_storage_sas_key", token),
            (None, None) => {
                let message = format!("datastore `{name}` keeps no key: give it an account key or a SAS token");
                return Err(RemoteError::Config { key: "remote.azure_ml.datastore", message });
            }
        };
        let options = [("azure_storage_account_name", account), ("azure_storage_endpoint", endpoint), secret];
        let options = options.map(|(key, value)| (key.to_owned(), value));
        Ok(ArtefactStore::with_options(&format!("az://{container}"), options)?)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, ArtefactStore>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
