error: cannot read the configuration file p.toml: No such file or directory (os error 2)
