//! The finishing of the API document: what all operations have in common.

use std::collections::HashSet;

use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, License, OpenApi, Ref, RefOr, Required, ServerBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::features::status;
use crate::web::Address;
use crate::web::failure::Problem;
use crate::web::schema::bounded_text;

/// The name of the security scheme; operations name the scope that they need beside it.
const SCHEME: &str = "api_key";

const INTRODUCTION: &str = "\
The API for operators and apps: organizations, their members and sessions, applications, keys, audit logs.

**Authentication.** Send an API key: `Authorization: Bearer bh_sk_…`. A key of the deployment opens every \
organization, a key of one organization opens that one alone. Each operation names the scope that it needs.

**Organizations** are named by id, slug or external id wherever `{org}` stands.

**Limits.** A 429 says in `Retry-After` when to come again, and in `RateLimit-Policy` and `RateLimit` \
(draft-ietf-httpapi-ratelimit-headers-10) which limit was reached and how much it is: \
`\"requests\";q=10000;w=5` and `\"requests\";r=0;t=1`. An answer that tells of success has the same two for the \
calls of its key, such as `\"api\";q=6000;w=60` and `\"api\";r=5998;t=1`: what is left, and in how many seconds all of \
it is back.

**Bodies** are JSON in UTF-8. A field that is not in the schema of a request body is refused (422); answers \
may get further fields, so ignore those that you do not know.

**Lists** are pages: `limit`, `order`, and `before` or `after` with a cursor from `list_metadata`.

**Errors** are problem details (RFC 9457) with a stable `code`, and name single fields in `errors`. An object \
of another organization and one that does not exist are the same 404. Every answer has an `X-Request-Id`, \
which is also in the log and in audit events: quote it when asking for help.

**Retries.** `PUT`, `PATCH` and `DELETE` can be sent again. Send a `POST` with an `Idempotency-Key` and it can \
too: for 24 hours the same key with the same request gives the first answer again, with the header \
`Idempotent-Replayed: true`.";

const TAGS: &[(&str, &str)] = &[
    ("Organizations", "Customer organizations, each in a file of its own."),
    ("Members", "People in one organization. The same address in two organizations is two members."),
    ("Sessions", "Members' signed-in browsers and devices."),
    ("Applications", "Your apps that sign people in: registered once, usable in every organization."),
    ("API keys", "What programs call this API with."),
    ("Signing keys", "The keys that sign an organization's tokens."),
    ("Audit events", "Who did what to whom, in a chain of hashes."),
    ("Erasures", "Organizations and members that are erased for good, and the certificates of it."),
    ("Exports", "Everything that an organization has, in one file; and back."),
    ("Backups", "Copies that are made all the time: going back to them, and looking at them."),
    ("Moving", "Freezing organizations, moving their files to other volumes, and to other deployments."),
    ("Keys", "What everything is sealed with: the master key, and the data keys that it wraps."),
    ("Fleet", "The care of all organizations' files."),
    ("Deployment", "The deployment as a whole."),
];

/// The whole document, from the operations of both routers.
#[must_use]
pub fn document(mut openapi: OpenApi, address: &Address) -> OpenApi {
    openapi.info = InfoBuilder::new()
        .title("Bulkhead API")
        .version(status::VERSION)
        .description(Some(INTRODUCTION))
        .license(Some(license()))
        .build();
    openapi.servers = Some(vec![ServerBuilder::new().url(address.origin()).build()]);
    for (path, item) in &mut openapi.paths.paths {
        for (is_post, operation) in operations(item) {
            finish(operation, path, is_post);
        }
    }
    let tags = TAGS.iter().map(|(name, about)| TagBuilder::new().name(*name).description(Some(*about)).build());
    openapi.tags = Some(tags.collect());
    openapi.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(SCHEME, [])]);
    let components = openapi.components.get_or_insert_with(Components::new);
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("`bh_sk_…`")).build();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    openapi
}

fn license() -> License {
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    license
}

/// The operations of a path, each with whether it is a `POST`.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let others = [get, put, delete, patch].into_iter().flatten().map(|operation| (false, operation));
    others.chain(post.as_mut().map(|operation| (true, operation)))
}

fn finish(operation: &mut Operation, path: &str, is_post: bool) {
    let scopes = scopes(operation);
    if !scopes.is_empty() {
        let needs = format!("Needs the scope `{}`.", scopes.join("`, `"));
        let description = operation.description.take().filter(|text| !text.is_empty());
        operation.description = Some(description.map_or(needs.clone(), |text| format!("{text}\n\n{needs}")));
    }
    let parameters = operation.parameters.get_or_insert_default();
    if path.contains("{org}") && !parameters.iter().any(|parameter| is_named(parameter, "org")) {
        parameters.insert(0, RefOr::T(organization_parameter()));
    }
    if is_post {
        parameters.push(RefOr::T(idempotency_parameter()));
    }
    // A parameter that is both taken by the handler and named beside it is one parameter.
    let mut seen = HashSet::new();
    parameters.retain(|parameter| match parameter {
        RefOr::T(parameter) => seen.insert(parameter.name.clone()),
        RefOr::Ref(_) => true,
    });
    let has_query = parameters.iter().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    });
    let has_body = operation.request_body.is_some();
    let refusals: [(bool, u16, &str); 11] = [
        (true, 400, "The request cannot be understood, or names two organizations."),
        (true, 401, "`unauthenticated`: no API key, or one that cannot be used here."),
        (true, 403, "`forbidden`: the key does not have the scope, or the organization is suspended."),
        (path.contains('{'), 404, "There is no such object, or none that this key may know of."),
        (has_body || is_post, 408, "`request_timeout`: the body took too long to arrive."),
        (is_post, 409, "`idempotency_key_in_use`: a request with this key is still running."),
        (has_body || is_post, 413, "`body_too_large`: the body is larger than allowed."),
        (has_body, 415, "`unsupported_media_type`: the body is not `application/json`."),
        (has_body || has_query || is_post, 422, "A value is not acceptable; `errors` says which."),
        (
            true,
            429,
            "`rate_limited`: too many requests; or a limit of the organization: `organization_rate_limited`, \
             `organization_concurrency_limited`, `organization_hashing_limited`, `organization_writes_limited`. \
             See `Retry-After`; `RateLimit-Policy` and `RateLimit` say which limit it was.",
        ),
        (
            true,
            503,
            "Not now: the organization or the server is busy or not available; see `Retry-After`. \
             `write_not_replicated`: it was done, but the store of the backup has not confirmed it.",
        ),
    ];
    for (applies, status, description) in refusals {
        if applies {
            let response = || RefOr::T(problem(description));
            operation.responses.responses.entry(status.to_string()).or_insert_with(response);
        }
    }
}

fn is_named(parameter: &RefOr<Parameter>, name: &str) -> bool {
    matches!(parameter, RefOr::T(parameter) if parameter.name == name)
}

/// The scopes that an operation names in its security requirement.
fn scopes(operation: &Operation) -> Vec<String> {
    let requirements = operation.security.iter().flatten();
    requirements.flat_map(scopes_of).collect()
}

/// The library keeps them to itself, but writes them down.
fn scopes_of(requirement: &SecurityRequirement) -> Vec<String> {
    let written = serde_json::to_value(requirement).unwrap_or_default();
    serde_json::from_value(written[SCHEME].clone()).unwrap_or_default()
}

fn organization_parameter() -> Parameter {
    ParameterBuilder::new()
        .name("org")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The organization: its id, slug or external id."))
        .schema(Some(bounded_text(1, 128)))
        .build()
}

fn idempotency_parameter() -> Parameter {
    let mut schema = bounded_text(1, 255);
    schema.pattern = Some("^[!-~]+$".to_owned());
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Makes it safe to send the request again: any text that is new for each new request."))
        .schema(Some(schema))
        .build()
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::base::Scope;
    use crate::features::api::{deployment_api, tenant_api};
    use crate::web::Addressing;

    fn whole() -> Value {
        let mut openapi = tenant_api().into_openapi();
        openapi.merge(deployment_api().into_openapi());
        let address = Address::new(&"https://example.com".parse().unwrap(), Addressing::Subdomain).unwrap();
        serde_json::to_value(document(openapi, &address)).unwrap()
    }

    fn each_operation(document: &Value, mut visit: impl FnMut(&str, &Value)) {
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                visit(&format!("{method} {path}"), operation);
            }
        }
    }

    fn each_reference(value: &Value, visit: &mut impl FnMut(&str)) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(target) if name == "$ref" => visit(target),
                        _ => each_reference(value, visit),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| each_reference(value, visit)),
            _ => (),
        }
    }

    #[test]
    fn every_operation_is_named_explained_and_guarded() {
        let document = whole();
        let tags: HashSet<_> = TAGS.iter().map(|(name, _)| *name).collect();
        let mut ids = HashSet::new();
        each_operation(&document, |at, operation| {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}: its id is not unique");
            assert!(operation["summary"].is_string(), "{at}: no summary");
            assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{at}: unknown tag");
            let scopes = operation["security"][0][SCHEME].as_array().expect(at);
            assert_eq!(scopes.len(), 1, "{at}");
            assert!(Scope::parse(scopes[0].as_str().unwrap()).is_some(), "{at}: unknown scope");
            for status in ["400", "401", "403", "429", "503"] {
                assert!(operation["responses"][status].is_object(), "{at}: no {status}");
            }
        });
        assert!(ids.len() >= 30, "{} operations", ids.len());
    }

    #[test]
    fn what_is_sent_again_and_what_is_one_organizations_says_so() {
        each_operation(&whole(), |at, operation| {
            let names: Vec<_> =
                operation["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
            assert_eq!(names.contains(&"Idempotency-Key"), at.starts_with("post "), "{at}");
            assert_eq!(names.contains(&"org"), at.contains("{org}"), "{at}");
            let in_path = at.matches('{').count();
            let described = operation["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "path").count();
            assert_eq!(in_path, described, "{at}: a parameter of the path is not described");
        });
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = whole();
        each_reference(&document, &mut |target| {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        });
    }
}
