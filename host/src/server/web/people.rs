//! `GET /people`: who may do what.

use axum::response::Response;
use maud::html;

use super::failure::Failure;
use super::layout;
use super::session::SignedIn;
use crate::people::{People, Role};

pub(super) async fn show(signed_in: SignedIn) -> Result<Response, Failure> {
    signed_in.check(Role::Admin)?;
    let people = People::open(&signed_in.tenant.access.people)?;
    let main = html! {
        h1 { "People" }
        table {
            caption { "Who may sign in, and what each may do" }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Role" } } }
            tbody {
                @for person in people.list() {
                    tr { th scope="row" { (person.name()) } td { (person.role().name()) } }
                }
            }
        }
        p.hint {
            "They are added and removed on the machine of this server: " code { "tunesmith people add NAME --role reviewer" } ", "
            code { "tunesmith people remove NAME" } "."
        }
    };
    Ok(layout::page(&signed_in, "/people", "People", main))
}
