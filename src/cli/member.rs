//! `member`: the people of an organization.

use reqwest::Method;
use serde_json::Value;

use super::args::{CreateMember, Limit, Member, MemberCommand};
use super::client::{Client, Intent, organization, segment};
use super::org::{done, present};
use super::output::{cell, clean, rows, table, titled};
use super::{Context, Failure, Outcome, Verdict, erasure, password};

pub(super) async fn run(context: &Context, command: MemberCommand) -> Outcome {
    match command {
        MemberCommand::Create(create) => {
            let org = create.org.org.clone();
            let body = body_of(create)?;
            context.with_client(Intent::Use, async |client| self::create(context, client, &org, body).await).await
        }
        MemberCommand::List { org, limit } => {
            context.with_client(Intent::Use, async |client| list(context, client, &org.org, limit).await).await
        }
        MemberCommand::Deactivate(member) => change(context, Method::PUT, &member, "Deactivated").await,
        MemberCommand::Reactivate(member) => change(context, Method::DELETE, &member, "Reactivated").await,
        MemberCommand::Delete(member) => delete(context, &member).await,
        MemberCommand::Erase(member) => erase(context, &member).await,
    }
}

fn body_of(create: CreateMember) -> Result<Value, Failure> {
    let mut body = present([("email", Some(create.email)), ("name", create.name)]);
    if !create.roles.is_empty() {
        body.insert("roles".to_owned(), create.roles.into());
    }
    if create.password_stdin {
        body.insert("password".to_owned(), password::from_stdin()?.expose().into());
    }
    Ok(body.into())
}

async fn create(context: &Context, client: &Client, org: &str, body: Value) -> Outcome {
    let made = client.post(&organization(org, "/members"), body).await?;
    context.output.answer(&made, || {
        let mut text = titled(&format!("Added {} to {}.", cell(&made, "email"), clean(org)), &made);
        if made["status"] == "pending" {
            text.push_str(
                "\nThey have no password yet: \"Forgot password\" on the sign-in page sets their first one.\n",
            );
        }
        text
    })?;
    Ok(Verdict::Good)
}

async fn list(context: &Context, client: &Client, org: &str, limit: Limit) -> Outcome {
    let list = client.list(&organization(org, "/members"), limit.limit).await?;
    context.output.answer(&list, || {
        table(
            &["E-MAIL", "NAME", "STATUS", "ROLES", "ID", "CREATED"],
            &rows(&list, &["email", "name", "status", "roles", "id", "created_at"]),
            "This organization has no member yet. Add one: bulkhead member create ORG --email E-MAIL --role owner",
        )
    })?;
    Ok(Verdict::Good)
}

async fn change(context: &Context, method: Method, who: &Member, word: &str) -> Outcome {
    context
        .with_client(Intent::Use, async |client| {
            let id = resolve(client, &who.org.org, &who.member).await?;
            let path = organization(&who.org.org, &format!("/members/{}/deactivation", segment(&id)));
            let answer = client.call(method, &path, None).await?;
            context.output.answer(&done(answer), || format!("{word} {}.\n", clean(&who.member)))?;
            Ok(Verdict::Good)
        })
        .await
}

async fn delete(context: &Context, who: &Member) -> Outcome {
    context
        .with_client(Intent::Use, async |client| {
            let id = resolve(client, &who.org.org, &who.member).await?;
            let path = organization(&who.org.org, &format!("/members/{}", segment(&id)));
            let answer = client.call(Method::DELETE, &path, None).await?;
            context.output.answer(&done(answer), || {
                let (member, id) = (clean(&who.member), clean(&id));
                let known = if member == id { member } else { format!("{member} ({id})") };
                format!(
                    "Deleted {known}. What the audit log says of them stays until: bulkhead member erase {} {id}\n",
                    clean(&who.org.org)
                )
            })?;
            Ok(Verdict::Good)
        })
        .await
}

async fn erase(context: &Context, who: &Member) -> Outcome {
    let (member, org) = (clean(&who.member), clean(&who.org.org));
    context.confirm(&format!("This erases {member} from {org} for good, also from its audit log."), &who.member)?;
    context
        .with_client(Intent::Use, async |client| {
            let id = resolve(client, &who.org.org, &who.member).await.map_err(|failure| {
                failure.advise(
                    "Who was deleted before is erased by id: `bulkhead org audit list` has it (member.deleted).",
                )
            })?;
            let path = organization(&who.org.org, &format!("/members/{}/erasure", segment(&id)));
            let answer = client.call(Method::PUT, &path, None).await?;
            context.output.answer(&answer, || erasure::of_member(&who.member, &answer))?;
            Ok(Verdict::Good)
        })
        .await
}

/// The id of a member who may have been named by e-mail address.
async fn resolve(client: &Client, org: &str, member: &str) -> Result<String, Failure> {
    if !member.contains('@') {
        return Ok(member.to_owned());
    }
    let list = client.list(&organization(org, "/members"), None).await?;
    let wanted = member.trim().to_lowercase();
    let mut members = list["data"].as_array().into_iter().flatten();
    let found = members.find(|member| member["email"].as_str().is_some_and(|email| email.to_lowercase() == wanted));
    let id = found.and_then(|member| member["id"].as_str()).map(str::to_owned);
    id.ok_or_else(|| Failure::new("member_not_found", format!("No member of {org} has the address {member}.")))
}
