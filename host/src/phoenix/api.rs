//! The requests that a sync is made of, by REST and, where that has no read, by GraphQL.

use serde_json::{Value, json};

use super::client::{ATTEMPTS, Connection, Server};
use super::error::PhoenixError;

/// The most that Phoenix gives of spans and takes of their ids. A reader that asks for 50 at a time costs the server four
/// times as much.
pub(super) const PAGE: usize = 1000;
/// The most that it gives of annotations; its default is 10.
const MOST_ANNOTATIONS: usize = 10_000;
/// Of a project and its documents, by GraphQL: `first` may be 1,000, but a span with fifty documents has fifty annotations.
const DOCUMENT_PAGE: usize = 200;
/// Span ids in a request that reads the spans as well: a few are asked for, and whole spans come.
const IDS_OF_A_LOOK: usize = 100;
/// Spans that have documents, which are those whose annotations Phoenix takes.
const WITH_DOCUMENTS: &str =
    "attributes['retrieval']['documents'] is not None or attributes['reranker']['output_documents'] is not None";

/// A Phoenix server.
pub struct Phoenix {
    connection: Connection,
}

/// A project of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Project {
    /// What paths hold: names may have slashes.
    pub(super) id: String,
    pub(super) name: String,
}

/// Values, and where to go on.
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    pub(super) next: Option<String>,
}

impl Phoenix {
    /// # Errors
    /// [`PhoenixError::BadUrl`], where TLS can't be set up for one.
    pub fn new(server: Server) -> Result<Self, PhoenixError> {
        Ok(Self { connection: Connection::new(server, ATTEMPTS)? })
    }

    /// Whether the server has a project `name`, asked once.
    ///
    /// # Errors
    /// [`PhoenixError`], which says what it lacks.
    pub fn look(server: Server, name: &str) -> Result<(), PhoenixError> {
        Self { connection: Connection::new(server, 1)? }.project(name).map(drop)
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        self.connection.url()
    }

    /// The project of this name.
    pub(super) fn project(&self, name: &str) -> Result<Project, PhoenixError> {
        let mut known = Vec::new();
        let mut cursors = Cursors::default();
        loop {
            let page = self.page(&["v1", "projects"], &[("limit", "1000")], cursors.current())?;
            for item in &page.items {
                let (id, found) = (self.text(item, "id")?, self.text(item, "name")?);
                if found == name {
                    return Ok(Project { id, name: found });
                }
                known.push(found);
            }
            if !cursors.advance(page.next, self)? {
                let (url, project) = (self.url().to_owned(), name.to_owned());
                return Err(PhoenixError::UnknownProject { url, project, known });
            }
        }
    }

    /// Spans in the order of their arrival, from the one at `cursor` on.
    pub(super) fn spans(
        &self,
        project: &Project,
        cursor: Option<&str>,
        range: &[(&str, &str)],
    ) -> Result<Page, PhoenixError> {
        let mut query = vec![("limit", "1000"), ("sort", "id"), ("order", "asc")];
        query.extend(range);
        self.page(&["v1", "projects", &project.id, "spans"], &query, cursor)
    }

    /// All annotations of these spans, at most [`PAGE`] of them, the first given first: their times are whole seconds, so
    /// that of two in one second only the order tells the newer. Phoenix lists the newest first.
    pub(super) fn annotations(&self, project: &Project, span_ids: &[String]) -> Result<Vec<Value>, PhoenixError> {
        let path = ["v1", "projects", &project.id, "span_annotations"];
        let limit = MOST_ANNOTATIONS.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(span_ids.iter().map(|id| ("span_ids", id.as_str())));
        let mut found = Vec::new();
        let mut cursors = Cursors::default();
        loop {
            let page = match self.page(&path, &query, cursors.current()) {
                // Not one of the spans is known any more: they were deleted there.
                Err(PhoenixError::Refused { status: 404, .. }) => return Ok(found),
                page => page?,
            };
            found.extend(page.items);
            if !cursors.advance(page.next, self)? {
                found.reverse();
                return Ok(found);
            }
        }
    }

    /// Those of these spans that the server still has.
    pub(super) fn existing(&self, project: &Project, span_ids: &[String]) -> Result<Vec<String>, PhoenixError> {
        let mut found = Vec::new();
        for ids in span_ids.chunks(IDS_OF_A_LOOK) {
            let wanted: Vec<_> = ids.iter().map(|id| ("span_id", id.as_str())).collect();
            for span in self.spans(project, None, &wanted)?.items {
                found.push(self.text(&span["context"], "span_id")?);
            }
        }
        Ok(found)
    }

    /// What is another text whenever spans or annotations came, changed or went. `None` where the server does not know.
    ///
    /// Its own time of the last change is blind to what went: the counts are not.
    pub(super) fn revision(&self, project: &Project) -> Result<Option<String>, PhoenixError> {
        let query = "query($id: ID!) { node(id: $id) { ... on Project {
            streamingLastUpdatedAt recordCount spanAnnotationNameCounts { name count } documentEvaluationNames
        } } }";
        let answer = self.graphql(query, json!({ "id": project.id }))?;
        let node = &answer["node"];
        Ok(node["streamingLastUpdatedAt"].is_string().then(|| node.to_string()))
    }

    /// Whether a document of the project has annotations.
    pub(super) fn has_document_annotations(&self, project: &Project) -> Result<bool, PhoenixError> {
        let query = "query($id: ID!) { node(id: $id) { ... on Project { documentEvaluationNames } } }";
        let answer = self.graphql(query, json!({ "id": project.id }))?;
        Ok(answer["node"]["documentEvaluationNames"].as_array().is_some_and(|names| !names.is_empty()))
    }

    /// Annotations of documents, each with its `span_id`, for which there is no REST read.
    pub(super) fn document_annotations(&self, project: &Project, cursor: Option<&str>) -> Result<Page, PhoenixError> {
        let query = "query($id: ID!, $first: Int!, $after: String, $which: String) { node(id: $id) { ... on Project {
            spans(first: $first, after: $after, filterCondition: $which) {
                pageInfo { endCursor hasNextPage }
                edges { node { spanId documentEvaluations {
                    name label score explanation annotatorKind documentPosition metadata identifier createdAt updatedAt
                } } }
            } } } }";
        let variables = json!({ "id": project.id, "first": DOCUMENT_PAGE, "after": cursor, "which": WITH_DOCUMENTS });
        let answer = self.graphql(query, variables)?;
        let spans = &answer["node"]["spans"];
        let edges = spans["edges"].as_array().ok_or_else(|| self.malformed("no `spans.edges`"))?;
        let mut items = Vec::new();
        for edge in edges {
            let span_id = self.text(&edge["node"], "spanId")?;
            for evaluation in edge["node"]["documentEvaluations"].as_array().into_iter().flatten() {
                let mut item = evaluation.clone();
                item["span_id"] = json!(span_id);
                items.push(item);
            }
        }
        let more = spans["pageInfo"]["hasNextPage"].as_bool().unwrap_or(false);
        Ok(Page { items, next: spans["pageInfo"]["endCursor"].as_str().filter(|_| more).map(str::to_owned) })
    }

    /// Upserts annotations of spans, and waits until they are there: without `sync` Phoenix says yes to spans that it does
    /// not have.
    pub(super) fn annotate(&self, body: &Value) -> Result<(), PhoenixError> {
        self.connection.post(&["v1", "span_annotations"], &[("sync", "true")], body).map(drop)
    }

    /// Makes a project.
    pub(super) fn create_project(&self, name: &str, description: &str) -> Result<(), PhoenixError> {
        let body = json!({ "name": name, "description": description });
        self.connection.post(&["v1", "projects"], &[], &body).map(drop)
    }

    /// Makes spans: all of them, or none where one is there already.
    pub(super) fn create_spans(&self, project: &Project, body: &Value) -> Result<(), PhoenixError> {
        self.connection.post(&["v1", "projects", &project.id, "spans"], &[], body).map(drop)
    }

    /// The names of the server's users by their ids: all that the key may see, which is none for most keys.
    pub(super) fn users(&self) -> Result<Vec<(String, String)>, PhoenixError> {
        let (mut users, mut cursors) = (Vec::new(), Cursors::default());
        loop {
            let page = match self.page(&["v1", "users"], &[("limit", "1000")], cursors.current()) {
                Err(PhoenixError::Forbidden { .. } | PhoenixError::Refused { .. }) => return Ok(users),
                page => page?,
            };
            for user in &page.items {
                users.push((self.text(user, "id")?, self.text(user, "username")?));
            }
            if !cursors.advance(page.next, self)? {
                return Ok(users);
            }
        }
    }

    fn page(&self, path: &[&str], query: &[(&str, &str)], cursor: Option<&str>) -> Result<Page, PhoenixError> {
        let mut query = query.to_vec();
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let mut answer = self.connection.get(path, &query)?;
        let next = answer["next_cursor"].as_str().map(str::to_owned);
        match answer["data"].take() {
            Value::Array(items) => Ok(Page { items, next }),
            _ => Err(self.malformed("no list `data`")),
        }
    }

    fn graphql(&self, query: &str, variables: Value) -> Result<Value, PhoenixError> {
        let mut answer = self.connection.post(&["graphql"], &[], &json!({ "query": query, "variables": variables }))?;
        if let Some(error) = answer["errors"][0]["message"].as_str() {
            return Err(self.malformed(&format!("GraphQL: {error}")));
        }
        Ok(answer["data"].take())
    }

    fn text(&self, item: &Value, name: &str) -> Result<String, PhoenixError> {
        item[name].as_str().map(str::to_owned).ok_or_else(|| self.malformed(&format!("no text `{name}`")))
    }

    pub(super) fn malformed(&self, reason: &str) -> PhoenixError {
        PhoenixError::Malformed { url: self.url().to_owned(), reason: reason.to_owned() }
    }
}

/// The cursors of a listing. One that comes again would go round for ever.
#[derive(Default)]
pub(super) struct Cursors {
    current: Option<String>,
    seen: std::collections::HashSet<String>,
}

impl Cursors {
    pub(super) fn starting_at(cursor: Option<String>) -> Self {
        Self { current: cursor, ..Self::default() }
    }

    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Goes on to `next`; false where there is none.
    pub(super) fn advance(&mut self, next: Option<String>, phoenix: &Phoenix) -> Result<bool, PhoenixError> {
        let Some(next) = next else { return Ok(false) };
        if !self.seen.insert(next.clone()) {
            return Err(phoenix.malformed(&format!("the cursor `{next}` came twice, so its pages have no end")));
        }
        self.current = Some(next);
        Ok(true)
    }
}
