#!lua flags=no-writes,allow-oom
-- One record's value and time to live, as they are at one moment.
-- A full Redis refuses every command of a transaction, reads too, and runs this.
-- KEYS[1] record
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
