//! The JSON schema of the file, made of the same declarations that read it.

use serde_json::{Map, Value, json};

use super::defaults;
use super::file::File;
use super::section::{Described, Setting, inside};

/// Makes the JSON schema of the configuration file.
pub fn schema() -> Value {
    let mut schema = File::schema();
    if let Some(file) = schema.as_object_mut() {
        file.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        file.insert("title".to_owned(), json!("onceproxy configuration"));
        file.insert("required".to_owned(), json!(["version", "store", "upstreams", "routes"]));
    }
    schema
}

/// Every setting with its path, such as `listener.address` or `routes.policy.lease`, and whether this release has it.
pub fn settings() -> Vec<(String, bool)> {
    let mut all = Vec::new();
    collect("", (File::below)(), &mut all);
    all
}

/// Where a setting belongs, in words, if there is one of that name.
pub(super) fn home(name: &str) -> Option<String> {
    let all = settings();
    let (path, _) = all.iter().find(|(path, _)| path.rsplit('.').next() == Some(name))?;
    Some(match path.rsplit_once('.') {
        Some(("defaults", _)) => "in [defaults] or a route's `policy`".to_owned(),
        Some((section, _)) => inside(section.rsplit('.').next().unwrap_or(section)),
        None => inside(""),
    })
}

fn collect(prefix: &str, settings: &[Described], all: &mut Vec<(String, bool)>) {
    for setting in settings {
        let path = format!("{prefix}{}", setting.name);
        match (setting.below)() {
            [] => all.push((path, setting.built)),
            below => collect(&format!("{path}."), below, all),
        }
    }
}

/// The schema of a section: no names but the declared ones, each with its sentence and its default.
pub(super) fn section(settings: &[Described]) -> Value {
    let properties: Map<String, Value> =
        settings.iter().map(|setting| (setting.name.to_owned(), property(setting))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn property(setting: &Described) -> Value {
    let mut schema = (setting.schema)();
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(setting.about.trim()));
    }
    for (name, default) in defaults::of(setting.name) {
        if let Some(property) = nested(&mut schema, name)
            && let Some(default) = json_of(&default)
        {
            property.insert("default".to_owned(), default);
        }
    }
    schema
}

/// A property of a section's schema, of a list's elements, or of each named section.
fn nested<'s>(schema: &'s mut Value, name: &str) -> Option<&'s mut Map<String, Value>> {
    let pointer = ["/properties", "/items/properties", "/additionalProperties/properties"]
        .into_iter()
        .find(|pointer| schema.pointer(pointer).is_some())?;
    schema.pointer_mut(pointer)?.get_mut(name)?.as_object_mut()
}

/// The JSON of a TOML value.
fn json_of(toml: &str) -> Option<Value> {
    let document: toml::Table = toml::from_str(&format!("value = {toml}")).ok()?;
    serde_json::to_value(document.get("value")?).ok()
}
