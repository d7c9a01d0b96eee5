// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The schema of a tool's JSON lines, as the tool itself prints it.

use jsonschema::Validator;
use serde_json::Value;

use crate::Run;

/// What a tool says its lines are.
pub struct Schema {
    tool: String,
    validator: Validator,
}

impl Schema {
    /// The schema that the tool prints.
    ///
    /// # Panics
    /// If it prints none, or not a JSON Schema.
    pub fn of(tool: &str) -> Self {
        let ended = Run::new(tool).args(["--json-schema"]).output();
        assert!(ended.status.success(), "{ended:?}");
        let schema: Value = serde_json::from_str(ended.stdout()).expect("the schema is JSON");
        let validator = jsonschema::draft202012::new(&schema)
            .unwrap_or_else(|error| panic!("{tool} --json-schema: {error}"));
        Self { tool: tool.into(), validator }
    }

    /// Check one line.
    ///
    /// # Panics
    /// If it is not valid.
    pub fn check(&self, line: &str) {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.tool));
        if let Err(error) = self.validator.validate(&value) {
            panic!("{}: a line that its schema does not allow ({error}): {line}", self.tool);
        }
    }
}
