//! The readable page of the API, made from the OpenAPI document and from nothing else.

use serde_json::Value;
use utoipa::openapi::OpenApi;

use crate::base::codes;
use crate::web::pages::{ApiDocs, DocField, DocGroup, DocOperation, DocResponse, Frame};

/// The whole page.
pub(super) fn page(document: &OpenApi) -> ApiDocs {
    let json = serde_json::to_value(document).unwrap_or_default();
    let server = text(&json["servers"][0]["url"]);
    let tags = json["tags"].as_array().cloned().unwrap_or_default();
    let mut groups: Vec<DocGroup> = tags.iter().map(|tag| group(&json, tag)).collect();
    groups.push(error_codes());
    ApiDocs {
        frame: Frame::new("API"),
        version: text(&json["info"]["version"]),
        introduction: text(&json["info"]["description"]).replace("**", "").replace('`', ""),
        example: format!("curl {server}/v1/organizations -H \"Authorization: Bearer $BULKHEAD_API_KEY\""),
        openapi: "/openapi.json".to_owned(),
        groups,
    }
}

fn group(json: &Value, tag: &Value) -> DocGroup {
    let name = text(&tag["name"]);
    let operations = each_operation(json)
        .filter(|(_, _, operation)| operation["tags"][0] == tag["name"])
        .map(|(path, method, operation)| draw(json, path, method, operation))
        .collect();
    DocGroup {
        id: name.to_lowercase().replace(' ', "-"),
        title: name,
        description: text(&tag["description"]),
        operations,
    }
}

/// Every code that an error can carry, each with its own anchor: the `type` of a problem leads here.
fn error_codes() -> DocGroup {
    let operations = codes::ALL.iter().map(|code| DocOperation {
        id: code.name.to_owned(),
        method: code.kind.status().to_string(),
        path: code.name.to_owned(),
        summary: code.summary.to_owned(),
        ..DocOperation::default()
    });
    DocGroup {
        id: "errors".to_owned(),
        title: "Error codes".to_owned(),
        description: "Stable: a code is never renamed.".to_owned(),
        operations: operations.collect(),
    }
}

fn each_operation(json: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = json["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods
            .filter(|(_, operation)| operation.is_object())
            .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

fn draw(json: &Value, path: &str, method: &str, operation: &Value) -> DocOperation {
    let parameters = operation["parameters"].as_array().into_iter().flatten().map(|parameter| DocField {
        name: text(&parameter["name"]),
        place: Some(text(&parameter["in"])),
        kind: kind(json, &parameter["schema"]),
        required: parameter["required"] == true,
        description: text(&parameter["description"]),
    });
    let body = follow(json, &operation["requestBody"]["content"]["application/json"]["schema"]);
    let responses = operation["responses"].as_object().into_iter().flatten().map(|(status, response)| {
        let (said, codes) = split_codes(&text(&response["description"]));
        DocResponse { status: status.clone(), description: said, codes }
    });
    let description = text(&operation["description"]);
    DocOperation {
        id: text(&operation["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: description.split("Needs the scope").next().unwrap_or_default().trim().to_owned(),
        scopes: scopes(operation),
        parameters: parameters.collect(),
        request: fields(json, body),
        request_example: example(body),
        responses: responses.collect(),
        response_example: None,
    }
}

/// "`slug_taken`, or …" → the text, and the codes in it.
fn split_codes(description: &str) -> (String, Vec<String>) {
    let quoted = description.split('`').skip(1).step_by(2).map(str::to_owned);
    let codes = quoted.filter(|word| codes::ALL.iter().any(|code| code.name == word)).collect();
    (description.replace('`', ""), codes)
}

fn scopes(operation: &Value) -> Vec<String> {
    let requirements = operation["security"].as_array().into_iter().flatten();
    let named = requirements.filter_map(Value::as_object).flatten().filter_map(|(_, scopes)| scopes.as_array());
    named.flatten().map(text).collect()
}

fn fields(json: &Value, schema: &Value) -> Vec<DocField> {
    let required: Vec<String> = schema["required"].as_array().into_iter().flatten().map(text).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, property)| DocField {
            name: name.clone(),
            place: None,
            kind: kind(json, property),
            required: required.contains(name),
            description: text(&property["description"]),
        })
        .collect()
}

/// "string", "array of strings", "string or null": as a person would say it.
fn kind(json: &Value, schema: &Value) -> String {
    let schema = follow(json, schema);
    if let Some(variants) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        return variants.iter().map(|variant| kind(json, variant)).collect::<Vec<_>>().join(" or ");
    }
    let names = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    };
    if names.starts_with("array") { format!("{names} of {}", kind(json, &schema["items"])) } else { names }
}

fn example(schema: &Value) -> Option<String> {
    let properties = schema["properties"].as_object()?;
    let fields = properties.iter().filter_map(|(name, property)| {
        let value = property.get("example").or_else(|| property["examples"].get(0))?;
        Some((name.clone(), value.clone()))
    });
    let object: serde_json::Map<_, _> = fields.collect();
    (!object.is_empty()).then(|| serde_json::to_string_pretty(&object).unwrap_or_default())
}

fn follow<'a>(json: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(target) => json.pointer(target.trim_start_matches('#')).unwrap_or(schema),
        None => schema,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
