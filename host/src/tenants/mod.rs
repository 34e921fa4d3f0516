//! Several tenants on one box, kept apart.
//!
//! The operator's file says which tenants there are and what each of them may use. Everything of a tenant lies in one
//! folder: its configuration, store, plugins and runs. A command that works for a tenant is given a [`Scope`], loads the
//! configuration through it, and asks it about every path from outside: what it writes is in that folder, what it reads is
//! there or in a folder that the operator shares with all.
//!
//! Without an operator's file the user of the machine is the only tenant, and may name any path.
//!
//! This keeps apart what tenants configure, upload and are sent. A tenant with a shell needs a user of its own, too.

mod confine;
mod error;
mod operator;
mod quota;
mod scope;

pub use error::TenantError;
pub use operator::{Operator, Tenant};
pub use quota::check_output;
pub use scope::Scope;
