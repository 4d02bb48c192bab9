// The page in Chromium, as a person uses it: keys and clicks go in, what is on the screen is looked at. Called by test_page.sh:
//
//     node test_page.mjs BROWSER PROFILE-FOLDER ADDRESS SLOW-ADDRESS SLOW-PID CLOSED-ADDRESS
//
// SLOW serves a model that writes for seconds, and is killed at the end; CLOSED asks for the key sk-test.
import {spawn} from 'node:child_process';

const [program, profile, address, slow, slowPid, closed] = process.argv.slice(2).map(word => word.trim());
let failed = 0;
const check = (name, holds, detail = '') => {
    console.log(holds ? 'ok - ' + name : 'not ok - ' + name + '\n    ' + JSON.stringify(detail));
    if (!holds) failed++;
};
const same = (name, a, b) => check(name, JSON.stringify(a) === JSON.stringify(b), [a, b]);
const sleep = ms => new Promise(done => setTimeout(done, ms));

// ------------------------------------------------------------------------------------------------ the browser

// Messages are JSON, each ended by a zero byte: to the browser on its descriptor 3, from it on 4. It ends when they close.
const child = spawn(program, ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--mute-audio',
    '--disable-background-networking', '--disable-component-update', '--remote-debugging-pipe', '--user-data-dir=' + profile, 'about:blank'],
    {stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe']});
const ended = new Promise(done => child.once('exit', done));
const waiting = new Map(), complaints = [], outside = [];
let count = 0, buffered = '', session;

child.once('exit', () => { for (const {fail} of waiting.values()) fail(new Error('the browser ended')); });
child.stdio[3].on('error', () => {});
child.stdio[4].setEncoding('utf8');
child.stdio[4].on('data', text => {
    const parts = (buffered + text).split('\0');
    buffered = parts.pop();
    for (const {id, method, params, result, error} of parts.map(part => JSON.parse(part))) {
        if (id) {
            const {done, fail} = waiting.get(id);
            waiting.delete(id);
            if (error) fail(new Error(error.message)); else done(result);
        }
        if (method === 'Runtime.exceptionThrown') complaints.push(params.exceptionDetails.exception?.description);
        if (method === 'Runtime.consoleAPICalled') complaints.push(params.args.map(value => value.value).join(' '));
        if (method === 'Log.entryAdded') complaints.push(params.entry.text);          // CSP violations, failed requests
        if (method === 'Network.requestWillBeSent' && !/^(data:|about:)/.test(params.request.url) &&
            ![address, slow, closed].includes(new URL(params.request.url).origin)) outside.push(params.request.url);
    }
});

const call = (method, params = {}) => new Promise((done, fail) => {
    waiting.set(++count, {done, fail});
    child.stdio[3].write(JSON.stringify({id: count, method, params, sessionId: session}) + '\0');
});

// The value of an expression in the page.
async function js(expression) {
    const {result, exceptionDetails} = await call('Runtime.evaluate', {expression, awaitPromise: true, returnByValue: true, userGesture: true});
    if (exceptionDetails) throw new Error(expression + ': ' + exceptionDetails.exception?.description);
    return result.value;
}

async function until(expression, ms = 20000) {
    for (const start = Date.now(); Date.now() - start < ms; await sleep(10)) if (await js(expression)) return true;
    return false;
}

async function press(key, modifiers = 0) {
    const [code, text] = {Enter: [13, '\r'], Escape: [27], Tab: [9]}[key];
    const event = {key, code: key, windowsVirtualKeyCode: code, modifiers};
    await call('Input.dispatchKeyEvent', {...event, type: text ? 'keyDown' : 'rawKeyDown', text});
    await call('Input.dispatchKeyEvent', {...event, type: 'keyUp'});
}

// From now on window.told counts how often a screen reader is told something.
const listen = () => js(`window.told = 0; for (const node of document.querySelectorAll('[role=status], [role=log], [aria-live]'))
    new MutationObserver(() => window.told++).observe(node, {childList: true, subtree: true, characterData: true})`);

// A click where the thing is; false where there is nothing to click on.
async function click(selector, label) {
    const at = await js(`(() => {
        const found = [...document.querySelectorAll('${selector}')].filter(node => ${JSON.stringify(label ?? null)} === null || node.textContent === '${label}').pop();
        if (!found) return null;
        found.scrollIntoView({block: 'nearest'});
        const box = found.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
        return document.elementFromPoint(x, y) === found ? {x, y} : null;
    })()`);
    if (!at) return false;
    for (const type of ['mousePressed', 'mouseReleased']) await call('Input.dispatchMouseEvent', {type, ...at, button: 'left', clickCount: 1});
    return true;
}

const type = text => call('Input.insertText', {text});
const shown = id => js(`document.getElementById('${id}').checkVisibility() && document.getElementById('${id}').textContent`);
const texts = () => js(`[...document.querySelectorAll('.words')].map(node => node.textContent)`);
const idle = () => until(`document.getElementById('stop').hidden`, 60000);
const focused = () => js(`document.activeElement.id || document.activeElement.name || document.activeElement.className || document.activeElement.textContent`);

async function open(where, saved = {}) {
    await call('Page.navigate', {url: where});
    await until(`document.readyState === 'complete' && location.href.startsWith('${where}')`);
    await js(`localStorage.clear(); for (const [name, value] of Object.entries(${JSON.stringify(saved)})) localStorage.setItem(name, JSON.stringify(value))`);
    await js(`window.old = 1`);
    await call('Page.reload');
    await until(`!window.old && document.readyState === 'complete'`);
    await js(`document.getElementById('text').focus()`);
}

// No complaint since the last time, but those allowed.
function quiet(name, allowed) {
    same('nothing in the console: ' + name, complaints.splice(0).filter(text => !allowed?.test(text)), []);
}

// Texts on the screen whose contrast is below 4.5, and boxes that stick out of the window.
const looks = () => js(`(() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => { const c = node ? numbers(getComputedStyle(node).backgroundColor) : [255, 255, 255]; return c[3] === 0 ? behind(node.parentElement) : c; };
    const bad = [];
    for (const node of document.querySelectorAll('body *')) {
        if (!node.checkVisibility({visibilityProperty: true})) continue;
        const box = node.getBoundingClientRect();
        if (!node.closest('.skip') && (box.right > innerWidth + 1 || box.left < -1)) bad.push('sticks out: ' + node.tagName + ' ' + node.className);
        for (const kind of node.placeholder ? [null, '::placeholder'] : [null]) {
            if (!kind && ![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()) && !node.value) continue;
            const style = getComputedStyle(node, kind), [a, b] = [light(numbers(style.color)), light(behind(node))].sort((a, b) => b - a);
            if ((a + 0.05) / (b + 0.05) * style.opacity < 4.5) bad.push('contrast: ' + node.tagName + ' ' + node.className + ' ' + style.color);
        }
    }
    for (const node of document.querySelectorAll('html, main, dialog, p'))
        if (node.scrollWidth > node.clientWidth + 1 && !node.matches('.hidden')) bad.push('wider inside than outside: ' + node.tagName);
    return bad;
})()`);

// -------------------------------------------------------------------------------------------------- the tests

async function conversation() {
    await open(address, {settings: {seed: '1'}});
    check('the model has its name', await until(`document.getElementById('model').value === 'stories'`));
    check('an empty page says what to do', /Enter sends/.test(await shown('hello')));
    await listen();
    await type('Tell me a story');
    await press('Enter', 8);
    await type('about a fox.');
    check('Shift+Enter is a new line', await js(`document.getElementById('text').value === 'Tell me a story\\nabout a fox.'`));
    await press('Enter');
    check('an answer ends', await until(`document.querySelectorAll('.words').length === 2`) && await idle());
    let [question, answer] = await texts();
    same('the question as it was written', question, 'Tell me a story\nabout a fox.');
    check('an answer', answer.length > 200, answer);
    check('its speed', /^\d+ tokens, [\d.]+ tokens\/s, prompt \d+/.test(await shown('speed')), await shown('speed'));
    await until(`document.getElementById('said').textContent === ''`);
    check('told to screen readers', await js(`window.told >= 2`), await js(`window.told`));
    same('the message box has the focus', await focused(), 'text');

    check('the settings open', await click('#settings-open') && await js(`document.getElementById('settings').open`));
    await type('You are a fox.');
    await js(`const seed = document.querySelector('[name=seed]'); seed.select(); seed.focus()`);
    await type('2');
    check('and close', await click('#settings button', 'Done') && await until(`!document.getElementById('settings').open`));
    await js(`window.sent = []; const send = fetch; window.fetch = (url, what) => { sent.push(what.body ? {...JSON.parse(what.body), session: what.headers['X-Session-ID']} : url); return send(url, what); }`);
    check('Regenerate', await click('button', 'Regenerate') && await idle());
    const other = await texts();
    check('another answer in the place of the old one', other.length === 2 && other[1].length > 200 && other[1] !== answer, other);
    same('with the settings', await js(`[sent[0].seed, sent[0].messages[0]]`), [2, {role: 'system', content: 'You are a fox.'}]);
    same('the server decides what the settings leave open', await js(`[sent[0].temperature, sent[0].top_k, sent[0].max_tokens]`), [null, null, null]);

    await js(`document.getElementById('text').focus()`);
    await type('And then?');
    await press('Enter');
    await until(`document.querySelectorAll('.words').length === 4`);
    await idle();
    check('a conversation keeps its name for proxies', await js(`/^[0-9a-f]{32}$/.test(sent[0].session) && sent[1].session === sent[0].session`), await js(`sent`));
    const [, used, room] = /, context (\d+) of (\d+)/.exec(await shown('speed')) ?? [];
    check('how full the context is', Number(room) === 256 && used > 100 && used <= 256, await shown('speed'));
    check('Edit of the first message', await click('li:first-child button', 'Edit') && await js(`document.activeElement.className === 'edit'`));
    await press('Escape');
    same('Escape gives it up', (await texts()).length, 4);
    same('and the focus goes back', await focused(), 'Edit');
    await press('Enter');
    await js(`document.activeElement.select()`);
    await type('Tell me a story about a <b>bear</b>.');
    await press('Enter');
    await until(`document.querySelectorAll('.words').length === 2`);
    await idle();
    [question, answer] = await texts();
    check('an edited message begins anew', question === 'Tell me a story about a <b>bear</b>.' && answer.length > 50, [question, answer]);
    same('no markup from texts', await js(`document.querySelectorAll('#log b').length`), 0);
    const all = await texts();
    const sessionName = () => js(`localStorage.getItem('session')`), name = await sessionName();
    await call('Page.reload');
    await until(`document.querySelectorAll('.words').length === 2`);
    same('a reload keeps the conversation', await texts(), all);
    same('and its name', await sessionName(), name);
    check('New chat', await click('#new') && (await texts()).length === 0);
    check('has another name', await sessionName() !== name, name);
    quiet('a conversation');
}

async function stopping() {
    await open(slow, {settings: {seed: '6'}});           // with it the model writes more than 800 tokens
    await listen();
    await type('Hello');
    await press('Enter');
    check('the answer streams', await until(`document.querySelector('.assistant .words')?.textContent.length > 20`) && await js(`!document.getElementById('stop').hidden`));
    const before = (await texts())[1].length;
    check('and goes on', await until(`document.querySelector('.assistant .words').textContent.length > ${before} + 20`));
    check('not told to screen readers piece by piece', await js(`window.told <= 2`), await js(`window.told`));
    check('with its speed', /^\d+ tokens, [\d.]+ tokens\/s$/.test(await shown('speed')), await shown('speed'));
    same('nothing but Stop while it is written', await js(`[...document.querySelectorAll('#log button')].filter(node => node.checkVisibility({visibilityProperty: true})).length`), 0);
    await press('Escape');
    check('Escape stops it', await until(`document.getElementById('stop').hidden`, 2000));
    const stopped = await texts();
    await sleep(300);
    same('and nothing comes after', await texts(), stopped);
    check('what came stays', stopped[1].length > before);
    check('it says so', /tokens\/s, stopped$/.test(await shown('speed')), await shown('speed'));
    await click('button', 'Regenerate');
    await until(`document.querySelector('.assistant .words').textContent.length > 20`);
    check('Stop stops it', await click('#stop') && await until(`document.getElementById('stop').hidden`, 2000));
    quiet('stopping');

    await click('button', 'Regenerate');
    await until(`document.querySelector('.assistant .words').textContent.length > 20`);
    process.kill(slowPid, 'SIGKILL');
    check('a server that dies', await until(`document.getElementById('problem').textContent`));
    same('is said in words', await shown('problem'), 'No connection to the server');
    const kept = await texts();
    check('what came stays', kept[1].length > 20, kept);
    await click('button', 'Regenerate');
    await idle();
    same('Regenerate without a server keeps the old answer', await texts(), kept);
    quiet('but the lost connection', /^Failed to load resource: net::ERR_/);
}

async function key() {
    await open(closed);
    check('a missing key is said', await until(`document.getElementById('problem').textContent`) && /Settings/.test(await shown('problem')), await shown('problem'));
    await click('#settings-open');
    await js(`document.querySelector('[name=key]').focus()`);
    await type('sk-test');
    await press('Escape');
    check('with the key it works', await until(`document.getElementById('model').value === 'stories' && !document.getElementById('problem').textContent`, 5000));
    const faint = name => `document.querySelector('[name=${name}]').placeholder`;
    check("the settings show the server's defaults", await until(`${faint('temperature')} === '0.3' && ${faint('max_tokens')} === '77' && ${faint('top_k')} === '40'`, 5000),
          await js(faint('temperature')));
    quiet('but the refusal', /401/);
}

async function appearance() {
    const messages = [
        {role: 'user', content: 'مرحبا، كيف حالك؟'}, {role: 'assistant', content: 'שלום! English.\nLeft to right 👩‍👩‍👧‍👦'},
        {role: 'user', content: 'x'.repeat(500)}, {role: 'assistant', content: 'a_name_' + 'y'.repeat(500) + '(); https://example.com/' + 'z/'.repeat(200)}];
    for (const [width, height, mobile] of [[1280, 900, false], [390, 844, true], [320, 480, true]])
        for (const value of ['light', 'dark']) {
            const name = width + ' x ' + height + ', ' + value;
            await call('Emulation.setDeviceMetricsOverride', {width, height, deviceScaleFactor: 1, mobile});
            await call('Emulation.setTouchEmulationEnabled', {enabled: mobile, maxTouchPoints: 5});
            await call('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value}]});
            await open(address);
            same('empty, ' + name, await looks(), []);
            await open(address, {messages});
            await js(`document.getElementById('problem').textContent = 'A problem'; document.getElementById('speed').textContent = '1 token'`);
            same('a conversation, ' + name, await looks(), []);
            await js(`document.querySelector('#log button').click()`);
            same('an edit, ' + name, await looks(), []);
            await js(`document.getElementById('settings-open').click()`);
            same('settings, ' + name, await looks(), []);
            check('the scheme is followed, ' + name, await js(`getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'`) === (value === 'light'));
        }
    await open(address, {messages});
    same('on a phone no word of keys', await js(`document.querySelector('.keys').checkVisibility()`), false);
    await type('One');
    await press('Enter');
    check('and Enter is a new line', (await texts()).length === 4 && await js(`document.getElementById('text').value === 'One\\n'`));
    await call('Emulation.clearDeviceMetricsOverride');
    await call('Emulation.setTouchEmulationEnabled', {enabled: false});
    await open(address, {messages});
    const edges = await js(`[...document.querySelectorAll('.words')].slice(0, 2).map(node => {
        const range = document.createRange(), lines = [];
        let at = 0;
        for (const line of node.textContent.split('\\n')) {
            range.setStart(node.firstChild, at);
            range.setEnd(node.firstChild, at += line.length);
            at++;
            const box = range.getBoundingClientRect(), around = node.getBoundingClientRect();
            lines.push(around.right - box.right < box.left - around.left ? 'right' : 'left');
        }
        return lines;
    })`);
    same('each line on its own side', edges, [['right'], ['right', 'left']]);

    await js(`document.activeElement.blur(); document.querySelector('.skip').focus()`);
    const order = [await focused()];
    let rings = 0;
    for (; order.length < 12 && order.at(-1) !== 'send'; order.push(await focused())) {
        await press('Tab');
        rings += await js(`document.activeElement.matches(':focus-visible') && parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`);
    }
    same('the order of Tab', order, ['skip', 'model', 'new', 'settings-open', 'Edit', 'Copy', 'Edit', 'Copy', 'Regenerate', 'text', 'send']);
    same('the focus is seen everywhere', rings, order.length - 1);
    const {nodes} = await call('Accessibility.getFullAXTree');
    same('every control has a name', nodes.filter(node => !node.ignored && ['button', 'textbox', 'combobox', 'spinbutton', 'list', 'dialog'].includes(node.role?.value) &&
        !node.name?.value).map(node => node.role.value), []);
    quiet('its looks');
}

try {
    const {targetInfos} = await call('Target.getTargets');
    session = (await call('Target.attachToTarget', {targetId: targetInfos.find(target => target.type === 'page').targetId, flatten: true})).sessionId;
    for (const domain of ['Page', 'Runtime', 'Log', 'Network', 'Accessibility']) await call(domain + '.enable');
    await conversation();
    await stopping();
    await key();
    await appearance();
    same('no request to anybody else', outside, []);
} catch (error) {
    check('the tests run', false, error.stack);
}
session = undefined;
call('Browser.close').catch(() => {});
setTimeout(() => child.kill('SIGKILL'), 5000).unref();
await ended;
process.exit(failed ? 1 : 0);
