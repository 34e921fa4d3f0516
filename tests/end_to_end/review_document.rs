//! The API's document against what the API answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tunesmith::people::Role;

use crate::reviewing::{Answer, Api, filled, person, verdict};
use crate::serving::Serving;

#[test]
fn every_answer_is_as_the_document_says() {
    let home = filled(60);
    let serving = Serving::start(&home, &[]);
    let mut nobody = Api::new(&serving.address, "");
    let document = nobody.get("/openapi.json");
    assert_eq!(document.status, 200);
    let document = document.json();
    assert_eq!((&document["openapi"], &document["servers"][0]["url"]), (&json!("3.1.0"), &json!("/api/v1")));
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let paths: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut tried = BTreeSet::new();
    tried.insert("/openapi.json");

    let mut anna = Api::new(&serving.address, &person(&home, "anna", Role::Reviewer));
    let mut checks = |path: &'static str, method: &str, status: u16, answer: &Answer| {
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        tried.insert(path);
        let response = &document["paths"][path][method]["responses"][status.to_string()];
        let (media, schema) = response["content"].as_object().unwrap().iter().next().unwrap();
        assert!(answer.has(&format!("content-type: {media}")), "{path}: {}", answer.head);
        for line in if media == "application/x-ndjson" {
            answer.text().lines().map(str::to_owned).collect()
        } else {
            vec![answer.text()]
        } {
            let value: Value = serde_json::from_str(&line).unwrap();
            check(&document, &schema["schema"], &value)
                .unwrap_or_else(|what| panic!("{method} {path}: {what} in {value:#}"));
        }
    };
    let first = anna.item(1);
    let mut edit = verdict(&anna.item(3), "edit");
    edit["content"] = first["content"].clone();
    edit["content"]["input"] = "something else".into();
    edit["reason"] = "clearer".into();
    let mut many = verdict(&anna.item(2), "reject");
    many["item"] = 2.into();
    checks("/items/{id}/decision", "post", 200, &anna.decide(&first, "approve"));
    checks("/items/{id}/decision", "post", 409, &anna.decide(&first, "approve"));
    checks("/items/{id}/decision", "post", 400, &anna.post("/items/1/decision", &json!({})));
    checks("/items/{id}/decision", "post", 404, &anna.post("/items/99/decision", &verdict(&first, "approve")));
    checks("/items/{id}/decision", "post", 401, &nobody.decide(&first, "approve"));
    checks("/items/{id}/decision", "post", 200, &anna.post("/items/3/decision", &edit));
    checks("/decisions", "post", 200, &anna.post("/decisions", &json!([many, many])));
    checks("/me", "get", 200, &anna.get("/me"));
    checks("/batches", "get", 200, &anna.get("/batches"));
    checks("/items", "get", 200, &anna.get("/items?limit=20"));
    checks("/items", "get", 400, &anna.get("/items?limit=0"));
    checks("/items/{id}", "get", 200, &anna.get("/items/3"));
    checks("/items/{id}/parents", "get", 200, &anna.get("/items/3/parents"));
    checks("/items/{id}/events", "get", 200, &anna.get("/items/3/events"));
    checks("/events", "get", 200, &anna.get("/events?after=50"));
    checks("/export", "get", 200, &anna.get("/export"));
    checks("/runs", "get", 200, &anna.get("/runs"));
    checks("/runs/{name}", "get", 404, &anna.get("/runs/nowhere"));
    checks("/adapters", "get", 200, &anna.get("/adapters"));
    assert_eq!(paths, tried, "paths that are in the document, and those that were tried");

    // A request as the document describes it, too: what was sent above is one.
    let body = |path: &str| &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    check(&document, body("/items/{id}/decision"), &edit).unwrap();
    check(&document, body("/decisions"), &json!([many])).unwrap();
    assert!(check(&document, body("/items/{id}/decision"), &json!({ "version": 1 })).is_err());
}

/// Holds a value to a schema of the document. A keyword that it does not know is an error: nothing passes unlooked at.
fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, wanted) in schema.as_object().ok_or("no schema")? {
        match keyword.as_str() {
            "$ref" => {
                let name =
                    wanted.as_str().and_then(|path| path.strip_prefix("#/components/schemas/")).ok_or("no name")?;
                let schema = &document["components"]["schemas"][name];
                check(document, schema, value).map_err(|what| format!("{name}: {what}"))?;
            }
            "type" => {
                let types = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !types.iter().any(|name| is_of(value, name.as_str().unwrap())) {
                    return Err(format!("{value} is not of {wanted}"));
                }
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => {
                return Err(format!("{value} is none of {wanted}"));
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    value.get(name.as_str().unwrap()).ok_or_else(|| format!("no {name}"))?;
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    value
                        .get(name)
                        .map_or(Ok(()), |value| check(document, schema, value))
                        .map_err(|what| format!("{name}: {what}"))?;
                }
            }
            "items" => value.as_array().into_iter().flatten().try_for_each(|value| check(document, wanted, value))?,
            "allOf" => wanted.as_array().unwrap().iter().try_for_each(|schema| check(document, schema, value))?,
            "oneOf" => {
                let outcomes: Vec<_> =
                    wanted.as_array().unwrap().iter().map(|schema| check(document, schema, value)).collect();
                if outcomes.iter().filter(|outcome| outcome.is_ok()).count() != 1 {
                    return Err(format!("{value} is not one of {wanted}: {outcomes:?}"));
                }
            }
            "minimum" if value.as_f64() < wanted.as_f64() => return Err(format!("{value} is below {wanted}")),
            "enum" | "minimum" | "description" | "format" | "title" => {}
            other => return Err(format!("`{other}` is not known here")),
        }
    }
    Ok(())
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other}"),
    }
}
