use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a person may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Decide.
    Reviewer,
    /// Decide on all that a filter finds, after a sample of it, and see who else may do what.
    Admin,
}

impl Role {
    /// Its name: `viewer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Reviewer => "reviewer",
            Self::Admin => "admin",
        }
    }
}

/// Somebody whose name is known. Made by those who can know it: the file of people by a token, the system by the account of a
/// terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    name: String,
    role: Role,
}

/// A person who may decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewer {
    name: String,
}

/// The role is not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is a {role}, and this takes a {needed}: ask an admin of this machine", role = role.name(), needed = needed.name())]
pub struct Forbidden {
    /// Who.
    pub name: String,
    /// What they are.
    pub role: Role,
    /// What they would have to be.
    pub needed: Role,
}

impl Person {
    pub(super) fn new(name: String, role: Role) -> Self {
        Self { name, role }
    }

    /// Whom the system says the process belongs to: who may read the store may decide in it.
    pub fn of_terminal() -> Self {
        Self::new(account(), Role::Admin)
    }

    /// Their name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Their role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether they may what takes `needed`.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn check(&self, needed: Role) -> Result<(), Forbidden> {
        match self.role >= needed {
            true => Ok(()),
            false => Err(Forbidden { name: self.name.clone(), role: self.role, needed }),
        }
    }

    /// As one who decides.
    ///
    /// # Errors
    /// [`Forbidden`] for a viewer.
    pub fn reviewer(&self) -> Result<Reviewer, Forbidden> {
        self.check(Role::Reviewer)?;
        Ok(Reviewer { name: self.name.clone() })
    }
}

impl Reviewer {
    /// A user of a Phoenix server, as it names them.
    pub(crate) fn of_phoenix(user: &str) -> Self {
        Self { name: format!("phoenix:{user}") }
    }

    /// Their name, which every decision of theirs has.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// By the user id: what the environment says is anybody's to set.
fn account() -> String {
    // SAFETY: it takes nothing and cannot fail.
    let uid = unsafe { libc::getuid() };
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut buffer = vec![0; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: the buffer is as long as is said, and entry and found are only written to.
    let status = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) };
    if status != 0 || found.is_null() {
        return format!("uid-{uid}");
    }
    // SAFETY: it was found, so the entry is filled, and its name is a C string in the buffer.
    let name = unsafe { std::ffi::CStr::from_ptr((*found).pw_name) };
    name.to_string_lossy().into_owned()
}
