use serde::{Deserialize, Serialize};

/// `[remote.azure_ml]`: command jobs of Azure Machine Learning. The secret is `AZURE_CLIENT_SECRET`, with `AZURE_TENANT_ID` and
/// `AZURE_CLIENT_ID`; without one, the machine's managed identity is asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzureMlOptions {
    /// The subscription's id.
    pub subscription: Option<String>,
    /// The workspace's resource group.
    pub resource_group: Option<String>,
    /// Its name.
    pub workspace: Option<String>,
    /// A compute cluster of the workspace: its name, or the whole ARM id.
    pub compute: Option<String>,
    /// What the job's container is made of: `name:version` of the workspace, or the whole ARM id.
    pub environment: Option<String>,
    /// The datastore of blobs where bundles and adapters lie [default: `workspaceblobstore`].
    pub datastore: Option<String>,
    /// The datastore where the workspace keeps logs [default: `workspaceartifactstore`].
    pub log_datastore: Option<String>,
    /// A VM size, where the compute is serverless: `Standard_NC24ads_A100_v4`.
    pub instance_type: Option<String>,
    /// Machines that Azure may take back, at a lower price.
    pub spot: bool,
    /// Who gives tokens [default: `https://login.microsoftonline.com`].
    pub authority: Option<String>,
    /// The management API [default: `https://management.azure.com`].
    pub management: Option<String>,
    /// What tokens are for, in clouds of their own [default: `https://management.azure.com`].
    pub audience: Option<String>,
    /// Who gives a machine's identity its tokens [default: `http://169.254.169.254`].
    pub identity: Option<String>,
    /// Another address of the account's blobs: a private endpoint [default: the datastore's].
    pub blob_endpoint: Option<String>,
}
