//! `/api/v1`: reviews for programs. A request has the token of a person, who decides as they would in the browser; there are no
//! cookies here.

mod batches;
mod caller;
mod decisions;
mod events;
mod export;
mod items;
mod openapi;
mod problem;
mod query;
mod runs;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::map_response;
use axum::response::Response;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
pub(super) use problem::Problem;

/// Where it is.
pub(super) const ROOT: &str = "/api/v1";

/// Everything below [`ROOT`].
pub(super) fn router() -> Router<Arc<Shared>> {
    let (router, _) = documented().split_for_parts();
    router
        .fallback(|| async { Problem::not_found("nothing is here: `/api/v1/openapi.json` has what there is") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(map_response(guarded))
}

/// A path that is served is a path of the document.
fn documented() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(openapi::document))
        .routes(routes!(caller::me))
        .routes(routes!(batches::batches))
        .routes(routes!(items::items))
        .routes(routes!(items::item))
        .routes(routes!(items::parents))
        .routes(routes!(events::of_item))
        .routes(routes!(events::log))
        .routes(routes!(decisions::decide))
        .routes(routes!(decisions::decide_all))
        .routes(routes!(export::export))
        .routes(routes!(runs::runs))
        .routes(routes!(runs::run))
        .routes(routes!(runs::adapters))
}

/// What is somebody's is not kept by what lies between, nor taken for something else.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
