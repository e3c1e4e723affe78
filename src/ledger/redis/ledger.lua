-- The ledger in Redis: one verb, carried out in one step.
--
-- A log is one string: the charges of a key, oldest first, 11 bytes each. A charge is its time in microseconds and its kind
-- (time * 2, + 1 for a resend) in 7 bytes, and 4 bytes that tell it from all others. Big-endian. Two things may stand before them,
-- and are told by a first byte that no time of the next centuries has:
--   254, time in 7 bytes, 3 bytes   Sendly itself refuses this key until then; for how many seconds it said so, or 0. At time 0 it says
--                                   only that other keys turned out to be this one
--   255, a key                      it turned out to be that other key: everything of it is there
-- Which keys turned out to be this one stands beside it, under its name and `ALSO`: their names, each ended by a zero. They live as long
-- as it does.
--
-- A short log is read and written whole. Of a long one only what is needed is: what is taken out of it leaves zeros at its end.
--
-- ARGV[1] is the verb, ARGV[2] its numbers, of 8 bytes each; texts follow. The first number is the time. One that is not
-- positive says that it is this server's, with so much added to it: 0 for nothing, otherwise that many microseconds less `BIAS`.
--
-- This server's clock may be set back. Then a charge lies in the future, and counts as of now instead: that is written down, so that it
-- leaves its windows once they have passed.

local RECORD, SHORT, LONG = 11, 24 * 11, 128 * 11
local HELD, MOVED, ALSO = 254, 255, ':also'
local BOTH, BIAS = 3, 2 ^ 51
-- For how long a charge may yet be given back; see `policy/window.rs`. And how far apart two readings of one event may lie.
local UNSETTLED, APART = 360 * 1000000, 10 * 1000000
-- How much longer than it counts a key lives. This server expires it by its own clock, which may be set forward: by an hour, and nothing
-- is lost.
local SPARE = UNSETTLED + 3600 * 1000000

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local verb, given = ARGV[1], ARGV[2]
local now = unpack('>i8', given)
local is_told = now > 0
if not is_told then
    local time, more = call('TIME'), now
    now = time[1] * 1000000 + time[2]
    if more < 0 then now = now + more + BIAS end
end

-- ---- the way that nearly every code takes ----

-- It judges and charges as `verbs.reserve` does, where the end of each log tells all that there is to know, and nothing is to be forgotten.
-- A script is run anew each time: all its functions are made, and all its tables. That takes longer than to judge a code, so here are no
-- functions and few tables. What is not plain is found out before anything is written, and left to what comes after.
if verb == 'reserve' then
    local _, earliest, deadline, token, kind, _, charges, may_be_again = unpack('>I8I8I8I8I8I8I8I8', given)
    -- It waited so long to be carried out that nobody waits for it any more; or this server's clock is not where the gateway knows it.
    if deadline > 0 and (now > deadline or now < earliest) then return { now, 2 } end
    local is_plain, refused, place = true, false, 65
    local answer, filled = { now, 0, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, 3
    local logs, lengths, longest = { '', '', '' }, { 0, 0, 0 }, { 0, 0, 0 }
    for i = 1, #KEYS do
        local counts, sends, send_window, resends, resend_window, rules = unpack('>I8I8I8I8I8I8', given, place)
        place = place + 48
        -- As much of its end as most limits look at.
        local most = (sends > resends and sends or resends) * RECORD
        if most < SHORT then most = SHORT elseif most > LONG then most = LONG end
        local log = call('GETRANGE', KEYS[i], -most, -1)
        local size, length, first = #log, #log, log
        if size == most then
            length, first = call('STRLEN', KEYS[i]), call('GETRANGE', KEYS[i], 0, 0)
        end
        local count, newest = length / RECORD, 0
        if size > 0 then
            local word = unpack('>I7', log, size - RECORD + 1)
            newest = (word - word % 2) / 2
            -- Held or moved; or something was taken out at its end; or it lies in the future.
            if first:byte() >= HELD or word == 0 or newest > now then is_plain = false end
            -- What looks like this very charge may be it.
            if may_be_again == 1 then
                local is_all = size == length or unpack('>I7', log) < (now - APART) * 2
                if not is_all or log:find(pack('>I4', token), 1, true) then is_plain = false end
            end
        end
        if not is_plain then break end
        filled = filled + 1
        answer[filled] = 0
        for rule = 1, rules do
            local max, window, which, near, enforced = unpack('>I8I8I8I8I8', given, place)
            place = place + 40
            local fact = 0
            for step = 1, 2 do
                -- The n-th newest charge that it counts.
                local n, word = step == 1 and max or near, 0
                if which ~= BOTH then
                    local from = size + 1
                    while n > 0 and from > 1 do
                        from = from - RECORD
                        word = unpack('>I7', log, from)
                        if word % 2 + 1 == which then n = n - 1 end
                    end
                    if n > 0 then word = 0 end
                    if n > 0 and size < length then is_plain = false end
                elseif n > 0 and n * RECORD <= size then
                    word = unpack('>I7', log, size - n * RECORD + 1)
                elseif n > 0 and n <= count then
                    word = unpack('>I7', call('GETRANGE', KEYS[i], length - n * RECORD, length - n * RECORD + 6))
                end
                local over = word > 0 and (word - word % 2) / 2 + window or 0
                if over > now then
                    fact = step == 1 and over - now or -1
                    if step == 1 and enforced == 1 then refused = true end
                    break
                end
            end
            filled = filled + 1
            answer[filled] = fact
        end
        if size > 0 and counts * charges == 1 and not refused then
            -- Whether some of it may be forgotten: of a log that is not at hand that is looked at now and then.
            if size < length then
                is_plain = is_plain and count % 16 ~= 0
            else
                local quarter = (count - count % 4) / 4
                local word = unpack('>I7', log, quarter * RECORD + 1)
                local window = word % 2 == 0 and send_window or resend_window
                is_plain = (word - word % 2) / 2 + window > now - UNSETTLED and quarter + sends + resends >= count
            end
        end
        if not is_plain then break end
        logs[i], lengths[i] = log, length
        longest[i] = counts == 1 and (send_window > resend_window and send_window or resend_window) or -1
    end
    if is_plain then
        answer[2] = refused and 1 or 0
        local record = pack('>I7I4', now * 2 + kind, token)
        for i = 1, #KEYS do
            local key, log, length = KEYS[i], logs[i], lengths[i]
            if charges == 1 and not refused and longest[i] >= 0 then
                local ttl = math.ceil((longest[i] + SPARE) / 1000)
                local before = length > 0 and call('PTTL', key) or 0
                if before > ttl then ttl = before end
                if length < SHORT then
                    log = log .. record
                    call('SET', key, log, 'PX', ttl)
                else
                    call('SETRANGE', key, length, record)
                    call('PEXPIRE', key, ttl)
                end
            end
            filled = filled + 1
            answer[filled] = length < SHORT and #log < SHORT and log
        end
        answer[filled + 1] = nil
        return answer
    end
end

-- ---- whatever else there is ----

local BLANK = string.rep('\0', RECORD)
local numbers, place = { unpack('>' .. string.rep('I8', #given / 8), given) }, 1

local function number()
    place = place + 1
    return numbers[place]
end

-- ---- logs ----

-- Some of its charges, from one place to before another, counted from 0.
local function slice(log, from, to)
    local first, last = log.first + from * RECORD, log.first + to * RECORD
    if from >= to then return '' end
    if log.whole then return log.head:sub(first + 1, last) end
    if from >= log.tail_from then
        return log.tail:sub((from - log.tail_from) * RECORD + 1, (to - log.tail_from) * RECORD)
    end
    return redis.call('GETRANGE', log.key, first, last - 1)
end

-- The time and the kind of one of its charges.
local function charge(log, i)
    local word = struct.unpack('>I7', slice(log, i, i + 1))
    local kind = word % 2
    return (word - kind) / 2, kind
end

local function open(key)
    local head = redis.call('GETRANGE', key, 0, SHORT - 1)
    while head:byte(1) == MOVED do
        key = head:sub(2)
        head = redis.call('GETRANGE', key, 0, SHORT - 1)
    end
    local log = { key = key, head = head, whole = #head < SHORT, first = 0, held = 0, said = 0, is_new = head == '' }
    if head:byte(1) == HELD then
        log.first, log.held, log.said = RECORD, struct.unpack('>I7I3', head, 2)
    end
    local length = log.whole and #head or redis.call('STRLEN', key)
    log.count = (length - log.first) / RECORD
    if not log.whole then
        -- Its end is looked at more than once.
        log.tail_from = log.count - math.floor(SHORT / RECORD) + 1
        log.tail = redis.call('GETRANGE', key, log.first + log.tail_from * RECORD, -1)
    end
    while log.count > 0 and slice(log, log.count - 1, log.count) == BLANK do log.count = log.count - 1 end
    return log
end

local function newest(log)
    return log.count > 0 and charge(log, log.count - 1) or 0
end

-- Looks at its charges, newest first, until one is what was looked for: returns its place.
local function find(log, is_it)
    local last = log.count
    while last > 0 do
        local from = math.max(last - 64, 0)
        local some = slice(log, from, last)
        for i = last - 1, from, -1 do
            local word = struct.unpack('>I7', some, (i - from) * RECORD + 1)
            local kind = word % 2
            if is_it((word - kind) / 2, kind) then return i end
        end
        last = from
    end
end

-- Finds the newest charge that has these bytes there, among those since then: its place. However many there are, it is fast.
local function find_bytes(log, bytes, there, earliest)
    local last = log.count
    while last > 0 do
        local from = math.max(last - 1024, 0)
        local some = slice(log, from, last)
        local at = 0
        repeat
            at = some:find(bytes, at + 1, true)
            local first = at and at - 1 - there
            if at and first >= 0 and first % RECORD == 0 then return from + first / RECORD end
        until not at
        local word = struct.unpack('>I7', some)
        if word < earliest * 2 then return nil end
        last = from
    end
end

local function find_token(log, token, at)
    return find_bytes(log, struct.pack('>I4', token), 7, at - APART)
end

-- The time of the n-th newest charge that a limit counts.
local function nth_newest(log, n, counts)
    if n == 0 or n > log.count then return nil end
    if counts == BOTH then return (charge(log, log.count - n)) end
    local at = nil
    find(log, function(time, kind)
        if counts ~= kind + 1 then return false end
        n, at = n - 1, time
        return n == 0
    end)
    return n == 0 and at or nil
end

-- Puts other charges in the place of all from this one on.
local function replace(log, from, tail)
    local count = from + #tail / RECORD
    if log.whole then
        log.head = log.head:sub(1, log.first + from * RECORD) .. tail
    else
        redis.call('SETRANGE', log.key, log.first + from * RECORD, tail .. string.rep(BLANK, log.count - count))
        if from >= log.tail_from then
            log.tail = log.tail:sub(1, (from - log.tail_from) * RECORD) .. tail
        else
            log.tail_from, log.tail = from, tail
        end
    end
    log.count = count
end

-- Has all of it at hand.
local function read_whole(log)
    if not log.whole then
        log.head = log.head:sub(1, log.first) .. slice(log, 0, log.count)
        log.whole = true
    end
end

-- Puts a charge where it belongs: nearly always at the end.
local function insert(log, at, kind, token)
    local to = log.count
    if newest(log) > at then
        local before = find(log, function(time) return time <= at end)
        to = before and before + 1 or 0
    end
    replace(log, to, struct.pack('>I7I4', at * 2 + kind, token) .. slice(log, to, log.count))
end

-- How much of a log limits can need: of each kind the newest so many, and none that is as old as that.
local function read_keep()
    local sends, send_window, resends, resend_window = number(), number(), number(), number()
    return {
        charges = { [0] = sends, [1] = resends },
        window = { [0] = send_window, [1] = resend_window },
        longest = math.max(send_window, resend_window),
    }
end

-- Forgets what no limit can need once `coming` is there; but only if that is a quarter of it or more, so that it is done seldom.
local function trim(log, coming, keep)
    if log.count == 0 then return end
    local settled = math.max(newest(log), coming) - UNSETTLED
    local quarter = math.floor(log.count / 4)
    local beyond = quarter + keep.charges[0] + keep.charges[1]
    local at, kind = charge(log, quarter)
    if at + keep.window[kind] > settled and (beyond >= log.count or charge(log, beyond) > settled) then return end
    read_whole(log)
    local spare = { [0] = -keep.charges[0], [1] = -keep.charges[1] }
    for i = 0, log.count - 1 do
        local at, kind = charge(log, i)
        if at <= settled then spare[kind] = spare[kind] + 1 end
    end
    local kept = {}
    for i = 0, log.count - 1 do
        local at, kind = charge(log, i)
        if spare[kind] <= 0 and at + keep.window[kind] > settled then kept[#kept + 1] = slice(log, i, i + 1) end
        spare[kind] = spare[kind] - 1
    end
    replace(log, 0, table.concat(kept))
end

-- The names of the keys that turned out to be this one.
local function names_of(log)
    return log.first > 0 and redis.call('GET', log.key .. ALSO) or ''
end

-- Writes it, to expire once nothing of it counts any more, and no sooner than it would have.
local function save(log, longest)
    local names = names_of(log)
    if log.count == 0 and log.held <= now and names == '' then
        redis.call('DEL', log.key)
        return
    end
    local last = math.max(log.count > 0 and newest(log) + longest or 0, log.held)
    local ttl = math.ceil((math.max(last - now, 0) + SPARE) / 1000)
    -- What was in the future was to expire on another clock.
    if not log.is_new and not log.was_ahead then ttl = math.max(ttl, redis.call('PTTL', log.key)) end
    if names ~= '' then
        for name in (names .. log.key .. ALSO .. '\0'):gmatch('%Z+') do
            if redis.call('PTTL', name) < ttl then redis.call('PEXPIRE', name, string.format('%.0f', ttl)) end
        end
    end
    if log.whole then
        redis.call('SET', log.key, log.head, 'PX', string.format('%.0f', ttl))
    else
        redis.call('PEXPIRE', log.key, string.format('%.0f', ttl))
    end
end

local function hold(log, till, said)
    if till <= log.held then return end
    read_whole(log)
    log.head = struct.pack('>I1I7I3', HELD, till, said) .. slice(log, 0, log.count)
    log.first, log.held, log.said = RECORD, till, said
end

-- Has nothing of it lie in the future: neither charges nor a hold that is to last longer than Sendly said. The clocks of callers who say
-- what time it is may disagree: there the newest charge tells the time.
local function bring_back(log)
    if is_told then return end
    if newest(log) > now then
        local before = find(log, function(time) return time <= now end)
        local from, charges = before and before + 1 or 0, {}
        for i = from, log.count - 1 do
            local word, token = struct.unpack('>I7I4', slice(log, i, i + 1))
            charges[#charges + 1] = struct.pack('>I7I4', now * 2 + word % 2, token)
        end
        charges = table.concat(charges)
        replace(log, from, charges)
        redis.call('SETRANGE', log.key, log.first + from * RECORD, charges)
        log.was_ahead = true
    end
    if log.said > 0 and log.held > now + log.said * 1000000 then
        log.held = now + log.said * 1000000
        local held = struct.pack('>I1I7I3', HELD, log.held, log.said)
        log.head = held .. log.head:sub(RECORD + 1)
        redis.call('SETRANGE', log.key, 0, held)
    end
end

-- What a gateway may remember of it, if that is little.
local function copy(log)
    return log.whole and #log.head < SHORT and log.head
end

-- ---- verbs ----

local verbs = {}

-- Judges one more code against some logs and, if no limit refuses, charges it to all of them. The answer is flat: the time, the verdict,
-- the time that was charged; of each key for how long Sendly still refuses it, and what each of its rules says; of each key a copy.
function verbs.reserve()
    local _, _, token, kind, holds = number(), number(), number(), number(), number() == 1
    local charges, may_be_again = number() == 1, number() == 1
    if may_be_again then
        for _, key in ipairs(KEYS) do
            local log = open(key)
            local i = find_token(log, token, now)
            if i then return { now, 0, (charge(log, i)) } end
        end
    end
    local logs, answer, refused, at = {}, { now, 0, 0 }, false, now
    for i, key in ipairs(KEYS) do
        local log = open(key)
        bring_back(log)
        log.counts, log.keep = number() == 1, read_keep()
        local as_of = math.max(now, newest(log))
        at = math.max(at, as_of)
        answer[#answer + 1] = math.max(log.held - now, 0)
        if holds and log.held > now then refused = true end
        for rule = 1, number() do
            local max, window, counts, near, enforced = number(), number(), number(), number(), number() == 1
            local last = nth_newest(log, max, counts)
            local fact = 0
            if last and last + window > as_of then
                fact = last + window - now
                if enforced then refused = true end
            else
                local close = nth_newest(log, near, counts)
                if close and close + window > as_of then fact = -1 end
            end
            answer[#answer + 1] = fact
        end
        logs[i] = log
    end
    answer[2], answer[3] = refused and 1 or 0, at
    for _, log in ipairs(logs) do
        if charges and not refused and log.counts then
            trim(log, at, log.keep)
            insert(log, at, kind, token)
            save(log, log.keep.longest)
        end
        answer[#answer + 1] = copy(log)
    end
    return answer
end

-- Gives a charge back, wherever it is still there.
function verbs.back()
    local at, token = number(), number()
    local found = 0
    for _, key in ipairs(KEYS) do
        local log = open(key)
        local i = find_token(log, token, math.min(at, now))
        if i then
            replace(log, i, slice(log, i + 1, log.count))
            save(log, 0)
            found = found + 1
        end
    end
    return { now, found }
end

-- Charges a code that went out already, unless it is there. One whose token nobody remembers (0) is known by its time and kind.
function verbs.note()
    local at, kind, token = number(), number(), number()
    if not is_told then at = math.min(at, now) end
    local noted = 0
    for _, key in ipairs(KEYS) do
        local log, keep = open(key), read_keep()
        local when, own = struct.pack('>I7', at * 2 + kind), token ~= 0 and find_token(log, token, at)
        local nameless = not own and find_bytes(log, when .. '\0\0\0\0', 0, at)
        if nameless and token ~= 0 then
            replace(log, nameless, when .. struct.pack('>I4', token) .. slice(log, nameless + 1, log.count))
            save(log, keep.longest)
        elseif own or nameless or token == 0 and find_bytes(log, when, 0, at) then
            -- It is there.
        elseif at + keep.longest + UNSETTLED > now then
            trim(log, at, keep)
            insert(log, at, kind, token)
            save(log, keep.longest)
            noted = noted + 1
        end
    end
    return { now, noted }
end

-- Lets nothing through for a key until then.
function verbs.hold()
    local log, till = open(KEYS[1]), number()
    hold(log, till, math.max(0, math.min(math.ceil((till - now) / 1000000), 2 ^ 24 - 1)))
    save(log, 0)
    return { now }
end

-- All that there is of a key.
function verbs.look()
    local log = open(KEYS[1])
    read_whole(log)
    return { now, log.head }
end

-- The same, and forgets it.
function verbs.clear()
    local log = open(KEYS[1])
    read_whole(log)
    local ttl = names_of(log) ~= '' and redis.call('PTTL', log.key) or 0
    if ttl > 0 then
        redis.call('SET', log.key, struct.pack('>I1I7I3', HELD, 0, 0), 'PX', ttl)
    else
        redis.call('DEL', log.key)
    end
    return { now, log.head }
end

-- Makes the second key the first. Whoever still asks for it is led there, for as long as either has anything that counts, and at least so
-- long.
function verbs.absorb()
    local keep, least = read_keep(), number()
    local into, from = open(KEYS[1]), open(KEYS[2])
    if into.key == from.key or from.is_new and least == 0 then return { now } end
    read_whole(from)
    read_whole(into)
    for i = 0, from.count - 1 do
        local word, token = struct.unpack('>I7I4', slice(from, i, i + 1))
        insert(into, (word - word % 2) / 2, word % 2, token)
    end
    hold(into, from.held, from.said)
    local ttl = math.max(math.ceil((newest(from) + keep.longest - now) / 1000), least, 0) + SPARE / 1000
    ttl = string.format('%.0f', ttl)
    local names = names_of(from) .. from.key .. '\0'
    for name in names:gmatch('%Z+') do
        redis.call('SET', name, struct.pack('>I1', MOVED) .. into.key, 'PX', ttl)
    end
    if from.first > 0 then redis.call('DEL', from.key .. ALSO) end
    if into.count > 0 or into.held > 0 then
        local known = names_of(into)
        for name in names:gmatch('%Z+') do
            if not known:find(name .. '\0', 1, true) then known = known .. name .. '\0' end
        end
        redis.call('SET', into.key .. ALSO, known, 'PX', ttl)
        if into.first == 0 then
            into.head, into.first = struct.pack('>I1I7I3', HELD, 0, 0) .. into.head, RECORD
        end
        save(into, keep.longest)
    end
    return { now }
end

-- Learns whose an id is: 8 bytes, and its root's name unless it is its own. A root that is known stays.
function verbs.learn()
    local ttl, phone, root = number(), ARGV[3], ARGV[4]
    local known = redis.call('GET', KEYS[1])
    -- One that is told is put in its place; without one, it keeps its own.
    local has = root or known and known:sub(9) or ''
    redis.call('SET', KEYS[1], phone .. has, 'PX', string.format('%.0f', ttl))
    return { now, known and 1 or 0, known and known:sub(9) or '', has }
end

-- Notes an id of a phone, 9 bytes, among its newest 16.
function verbs.note_id()
    local ttl, ids = number(), ARGV[3]
    local known = redis.call('GET', KEYS[1]) or ''
    for at = 1, #known, 9 do
        local other = known:sub(at, at + 8)
        if other ~= ARGV[3] and #ids < 9 * 16 then ids = ids .. other end
    end
    redis.call('SET', KEYS[1], ids, 'PX', string.format('%.0f', ttl))
    return { now }
end

-- Whether this server takes writes, what time it has, and which data: the first who asks names them. And what gateways have agreed to add
-- to its time, where that stands in a second key.
function verbs.probe()
    local data = redis.call('GET', KEYS[1]) or ARGV[3]
    redis.call('SET', KEYS[1], data)
    return { now, data, KEYS[2] and redis.call('GET', KEYS[2]) or '' }
end

-- Has one gateway tell something to the others, and returns what they have told and is not too old. Of each: 8 bytes which gateway, 8 until
-- when it is believed, 4 how many bytes it told, and those.
function verbs.exchange()
    local lasts, own, news = number(), ARGV[3], ARGV[4]
    local told, others, at = redis.call('GET', KEYS[1]) or '', {}, 1
    while at + 19 <= #told do
        local till = struct.unpack('>I8', told, at + 8)
        local size = 20 + struct.unpack('>I4', told, at + 16)
        if told:sub(at, at + 7) ~= own and till > now and till <= now + lasts then
            others[#others + 1] = told:sub(at, at + size - 1)
        end
        at = at + size
    end
    others = table.concat(others)
    local entry = own .. struct.pack('>I8I4', now + lasts, #news) .. news
    redis.call('SET', KEYS[1], others .. entry, 'PX', string.format('%.0f', lasts / 1000))
    return { now, others }
end

-- Agrees on something else, unless another gateway was first.
function verbs.set_clock()
    if (redis.call('GET', KEYS[1]) or '') ~= ARGV[3] then return { now, 0 } end
    redis.call('SET', KEYS[1], ARGV[4])
    return { now, 1 }
end

return verbs[verb]()
