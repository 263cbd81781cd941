//! What shells, editors and readers of manuals want: completions, the schema, the manual pages.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::{Arguments, ManArguments};
use super::{Failure, output};
use crate::config::schema;

/// Prints the JSON schema of the configuration file.
pub(super) fn schema() -> Result<(), Failure> {
    output::say(&format!("{:#}", schema::schema()));
    Ok(())
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "onceproxy", &mut script);
    output::write(&script);
    Ok(())
}

/// Prints the manual page, or writes all of them, one per command, into a folder.
pub(super) fn man(arguments: &ManArguments) -> Result<(), Failure> {
    if let Some(folder) = &arguments.out {
        return clap_mangen::generate_to(Arguments::command(), folder)
            .map_err(|error| Failure::Failed(format!("cannot write manual pages into {}: {error}", folder.display())));
    }
    let mut page = Vec::new();
    Man::new(Arguments::command())
        .render(&mut page)
        .map_err(|error| Failure::Failed(format!("cannot make the manual page: {error}")))?;
    output::write(&page);
    Ok(())
}
