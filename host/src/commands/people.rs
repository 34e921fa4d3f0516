//! `tunesmith people`: who may review in the browser.

use std::path::PathBuf;

use serde_json::json;

use super::Answer;
use crate::cli::{AddPersonArgs, PeopleArgs, PeopleCommand, RemovePersonArgs};
use crate::config::ReviewConfig;
use crate::error::HostError;
use crate::people::People;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, command: PeopleCommand) -> Result<Answer, HostError> {
    match command {
        PeopleCommand::Add(AddPersonArgs { name, role, people }) => {
            let path = path(scope, &people)?;
            let token = People::open(&path)?.add(&name, role)?;
            let text = format!(
                "{name} is a {} of `{}`; they sign in with this token, which is told only now:\n{token}",
                role.name(),
                path.display()
            );
            Ok(Answer::new(text, &json!({ "name": name, "role": role, "people": path, "token": token })))
        }
        PeopleCommand::List(args) => {
            let path = path(scope, &args)?;
            let all: Vec<_> = People::open(&path)?.list().collect();
            let lines: Vec<_> =
                all.iter().map(|person| format!("{} ({})", person.name(), person.role().name())).collect();
            let text = match lines.is_empty() {
                true => format!("nobody is in `{}`: `tunesmith people add NAME --role reviewer`", path.display()),
                false => lines.join("\n"),
            };
            Ok(Answer::new(text, &all))
        }
        PeopleCommand::Remove(RemovePersonArgs { name, people }) => {
            let path = path(scope, &people)?;
            People::open(&path)?.remove(&name)?;
            let text = format!("{name} is removed from `{}`; what they decided stays", path.display());
            Ok(Answer::new(text, &json!({ "name": name, "people": path })))
        }
    }
}

fn path(scope: &Scope, args: &PeopleArgs) -> Result<PathBuf, HostError> {
    let (options, _) = scope.load(args.store.config.as_deref(), &args.options())?;
    Ok(ReviewConfig::new(&options)?.people)
}
