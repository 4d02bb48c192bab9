// The server through OpenAI's own client library. Called by test_openai.sh with the server's address.
import OpenAI from 'openai';

const address = process.argv[2].trim();
let failed = 0;
const check = (name, holds, detail = '') => {
    console.log(holds ? 'ok - ' + name : 'not ok - ' + name + '\n    ' + JSON.stringify(detail));
    if (!holds) failed++;
};
const same = (name, a, b) => check(name, JSON.stringify(a) === JSON.stringify(b), [a, b]);
const question = {role: 'user', content: 'Tell me a story about a fox.'};
const ask = {model: 'bitnet', messages: [question], temperature: 0, max_tokens: 40};

for (const base of [address, address + '/v1']) {
    const client = new OpenAI({baseURL: base, apiKey: 'sk-test', maxRetries: 0});
    const where = base === address ? ' (without /v1)' : '';

    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    same('models' + where, models, ['stories']);
    same('one model', (await client.models.retrieve('stories')).object, 'model');
    const whole = await client.chat.completions.create(ask);
    const text = whole.choices[0].message.content;
    check('chat' + where, text.startsWith('Once upon a time') && whole.object === 'chat.completion', whole);
    same('usage', whole.usage.completion_tokens, 40);

    let streamed = '', usage = null, reasons = [];
    for await (const chunk of await client.chat.completions.create({...ask, stream: true, stream_options: {include_usage: true}})) {
        streamed += chunk.choices[0]?.delta?.content ?? '';
        if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
        usage = chunk.usage ?? usage;
    }
    same('streaming: the same text' + where, streamed, text);
    same('streaming: finish_reason and usage', [reasons, usage.total_tokens], [['length'], whole.usage.total_tokens]);
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    same('the stream helper puts the message together', final.choices[0].message.content, text);

    const word = text.split(' ')[6];
    const cut = await client.chat.completions.create({...ask, stop: [word]});
    same('stop' + where, [cut.choices[0].message.content, cut.choices[0].finish_reason], [text.split(word)[0], 'stop']);
    const probable = await client.chat.completions.create({...ask, max_tokens: 5, logprobs: true, top_logprobs: 2});
    const tokens = probable.choices[0].logprobs.content;
    check('logprobs', tokens.length === 5 && tokens.every(t => t.top_logprobs.length === 2 && t.logprob <= 0 && t.bytes.length > 0), tokens);
    const several = await client.chat.completions.create({...ask, n: 2, seed: 5, temperature: 1});
    check('n', several.choices.length === 2 && several.choices[0].message.content !== several.choices[1].message.content, several);
    const old = await client.completions.create({model: 'bitnet', prompt: 'Once upon a time', max_tokens: 5, temperature: 0, logprobs: 1});
    check('completions', old.object === 'text_completion' && old.choices[0].logprobs.tokens.length === 5, old);

    const floats = await client.embeddings.create({model: 'bitnet', input: ['a fox', 'a kite'], encoding_format: 'float'});
    const packed = await client.embeddings.create({model: 'bitnet', input: ['a fox', 'a kite']});       // asks for base64 by itself
    const close = (a, b) => a.length === b.length && a.every((x, i) => Math.abs(x - b[i]) < 1e-7);
    check('embeddings' + where, floats.data.length === 2 && close(floats.data[1].embedding, packed.data[1].embedding));

    const error = async (name, call, status, type, message) => {
        try {
            await call();
            check(name, false, 'no error');
        } catch (e) {
            check(name, e instanceof OpenAI.APIError && e.status === status && e.type === type && e.message.includes(message), [e.status, e.type, e.message]);
        }
    };
    await error('error: a field', () => client.chat.completions.create({...ask, temperature: 'hot'}), 400, 'invalid_request_error', 'temperature');
    await error('error: tools', () => client.chat.completions.create({...ask, tools: [{type: 'function', function: {name: 'f'}}]}), 400, 'invalid_request_error', 'tools');
    await error('error: messages', () => client.chat.completions.create({...ask, messages: []}), 400, 'invalid_request_error', 'messages');
    await error('error: no such model', () => client.models.retrieve('gpt-4'), 404, 'not_found_error', 'model');
    const stranger = new OpenAI({baseURL: base, apiKey: 'sk-wrong', maxRetries: 0});
    await error('error: a wrong key' + where, () => stranger.chat.completions.create(ask), 401, 'authentication_error', 'Invalid API Key');

    const abort = new AbortController();
    let pieces = 0;
    try {
        for await (const chunk of await client.chat.completions.create({...ask, max_tokens: 200, stream: true}, {signal: abort.signal}))
            if (++pieces === 3) abort.abort();
    } catch (e) { /* some versions throw, others end the loop */ }
    check('an aborted stream leaves the server at work', (await client.chat.completions.create({...ask, max_tokens: 1})).choices.length === 1);
}
process.exit(failed ? 1 : 0);
