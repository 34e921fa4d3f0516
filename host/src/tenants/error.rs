use std::path::PathBuf;

/// What a tenant may not have. No text names another tenant, or says whether what is out of reach exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum TenantError {
    #[error("`{}` has no tenant `{tenant}`: mend `--tenant-id`, or give the tenant a table `[tenants.{tenant}]` there", file.display())]
    Unknown { file: PathBuf, tenant: String },

    #[error("`{}`: {what}", file.display())]
    Operator { file: PathBuf, what: String },

    #[error("the folder `{}` of tenant `{tenant}` cannot be used: {what}", folder.display())]
    Folder { folder: PathBuf, tenant: String, what: String },

    /// A path that leads, by itself or by a link, to where the tenant has nothing to do.
    #[error("`{what}` is `{}`, where tenant `{tenant}` may not {action}: name a path in `{}`", path.display(), folder.display())]
    OutOfReach { what: String, path: PathBuf, tenant: String, action: &'static str, folder: PathBuf },

    #[error("`{}` says `tenant_id = \"{found}\"`, and this is tenant `{tenant}`: mend it there, or remove it", file.display())]
    OtherTenant { file: PathBuf, found: String, tenant: String },

    #[error(
        "tenant `{tenant}` may not use `{what} = \"{value}\"`: the operator grants it by `{grant}` in the operator's file"
    )]
    NotGranted { tenant: String, what: &'static str, value: String, grant: &'static str },

    #[error("tenant `{tenant}` may not use `{what} = \"{value}\"`: it would run as the machine's user; leave it out")]
    OperatorsOnly { tenant: String, what: &'static str, value: String },

    #[error(
        "`{}` holds {used}, and its quota is {quota}: remove adapters that are not needed, or have the operator raise `output_quota`",
        folder.display()
    )]
    OutputQuota { folder: PathBuf, used: String, quota: String },
}
