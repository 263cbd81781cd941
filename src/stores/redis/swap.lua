#!lua flags=allow-oom
-- Compare-and-set of one record by its version, the first 16 bytes of the value.
-- KEYS[1] record   ARGV[1] expected version   ARGV[2] keep in ms, 0 removes
-- ARGV[3] channel, empty for no notice   ARGV[4] record id   ARGV[5] value
-- Answers 0 done, 1 gone, 2 another version is there, with value and time to live.
local key = KEYS[1]
local present = redis.call('GETRANGE', key, 0, 15)
local removes = ARGV[2] == '0'
if present == '' and redis.call('EXISTS', key) == 0 then
  if not removes then
    return {1}
  end
elseif removes or present ~= string.sub(ARGV[5], 1, 16) then
  if present ~= ARGV[1] then
    return {2, redis.call('GET', key), redis.call('PTTL', key)}
  end
  if removes then
    redis.call('DEL', key)
  else
    redis.call('SET', key, ARGV[5], 'PX', ARGV[2])
  end
end
if ARGV[3] ~= '' then
  redis.pcall('PUBLISH', ARGV[3], ARGV[4])
end
return {0}
