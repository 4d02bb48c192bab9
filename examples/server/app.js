// The page's program: keeps a conversation, sends all of it with each question, and shows the answer as it comes.
// Texts reach the page as text nodes only, so nothing that a model writes can become part of the page.
'use strict';

const $ = id => document.getElementById(id);
// An empty setting is the server's own, which its field shows faintly.
const defaults = {system: '', temperature: '', top_p: '', top_k: '', min_p: '', repeat_penalty: '', max_tokens: '', seed: '', theme: '', key: '', model: ''};
let settings = {...defaults};
let messages = [];                   // {role: 'user' | 'assistant', content}
let session = '';                    // the conversation's name, by which a proxy finds the server that has read it
let context = 0;                     // tokens that a conversation may have; 0: not known
let known = null;                    // the model whose settings the fields show
let running = null;                  // the AbortController of the answer that is being written

// ------------------------------------------------------------------------------------------------ memory

// The browser keeps settings and conversation, where it is allowed to.
function remember() {
  try {
    localStorage.setItem('settings', JSON.stringify(settings));
    localStorage.setItem('messages', JSON.stringify(messages));
    localStorage.setItem('session', JSON.stringify(session));
  } catch (error) { /* a private window: then not */ }
}

function recall() {
  try {
    settings = {...defaults, ...JSON.parse(localStorage.getItem('settings') || '{}')};
    messages = JSON.parse(localStorage.getItem('messages') || '[]');
    session = JSON.parse(localStorage.getItem('session') || '""');
  } catch (error) {
    settings = {...defaults};
  }
  messages = Array.isArray(messages) ? messages.filter(message => typeof message?.content === 'string') : [];
  if (typeof session !== 'string' || !/^\w+$/.test(session)) session = newSession();
}

// crypto.randomUUID is only there over https and on this machine.
function newSession() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('');
}

// ------------------------------------------------------------------------------------------- conversation

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function action(label, run) {
  return element('button', {type: 'button', textContent: label, onclick: run});
}

// The list item of message i.
function show(message, i) {
  const mine = message.role === 'user', last = i === messages.length - 1;
  const actions = element('div', {className: 'actions'});
  if (mine) actions.append(action('Edit', () => edit(i)));
  if (!mine) actions.append(action('Copy', event => copy(event.target, message.content)));
  if (last) actions.append(action(mine ? 'Send again' : 'Regenerate', regenerate));
  return element('li', {className: message.role}, element('h2', {className: 'role', textContent: mine ? 'You' : 'Model'}),
                 element('p', {className: 'words', textContent: message.content}), actions);
}

function render() {
  $('log').replaceChildren(...messages.map(show));
  $('hello').hidden = messages.length > 0;
}

function atEnd() {
  const main = document.querySelector('main');
  return main.scrollHeight - main.scrollTop - main.clientHeight < 80;
}

function toEnd() {
  document.querySelector('main').scrollTop = 1e9;
}

// Over plain http browsers have no clipboard except on this machine: then the old way.
async function copy(button, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) {
    getSelection().selectAllChildren(button.closest('li').querySelector('.words'));
    done = document.execCommand('copy');
  }
  button.textContent = done ? 'Copied' : 'Not allowed';
  say(button.textContent);
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

// Message i becomes a text box; sending it drops what came after.
function edit(i) {
  if (running) return;
  const box = element('textarea', {className: 'edit', dir: 'auto', value: messages[i].content, oninput: () => grow(box)});
  const send = () => {
    if (!box.value.trim()) return;
    messages.length = i;
    ask(box.value.trim());
  };
  const cancel = () => {
    $('log').children[i].replaceWith(show(messages[i], i));
    $('log').children[i].querySelector('button').focus();
  };
  box.setAttribute('aria-label', 'Edit your message');
  box.onkeydown = event => {
    if (event.key === 'Escape' && !event.isComposing) cancel();
    if (sends(event)) send();
  };
  $('log').children[i].replaceChildren(box, element('div', {className: 'actions'}, action('Send', send), action('Cancel', cancel)));
  grow(box);
  box.focus();
}

function regenerate() {
  if (running || !messages.length) return;
  answer(messages.at(-1).role === 'assistant' ? messages.pop() : null);
}

function ask(text) {
  messages.push({role: 'user', content: text});
  answer();
}

// ------------------------------------------------------------------------------------------------- server

function headers() {
  const all = {'Content-Type': 'application/json', 'X-Session-ID': session};
  return settings.key ? {...all, 'Authorization': 'Bearer ' + settings.key} : all;
}

function body() {
  const all = settings.system.trim() ? [{role: 'system', content: settings.system}, ...messages] : messages;
  const number = name => settings[name] === '' ? null : Number(settings[name]);
  return {messages: all, model: settings.model || null, stream: true, temperature: number('temperature'), top_p: number('top_p'),
          top_k: number('top_k'), min_p: number('min_p'), repeat_penalty: number('repeat_penalty'), max_tokens: number('max_tokens'),
          seed: number('seed')};
}

// The events of a streamed answer, as objects.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split('\n\n');
    text = parts.pop();
    for (const part of parts)
      if (part.startsWith('data: ') && part !== 'data: [DONE]') yield JSON.parse(part.slice(6));
  }
}

async function refusal(response) {
  try {
    return (await response.json()).error.message + (response.status === 401 ? ': enter it under Settings' : '');
  } catch (error) {
    return 'The server answered with status ' + response.status;
  }
}

// Asks for the next message and shows it while it is written. Where nothing comes, an old answer returns to its place.
async function answer(old) {
  const message = {role: 'assistant', content: ''};
  let pieces = 0, first = 0, last = 0, shown = 0, frame = 0, finish = null, timings = null, stopped = false;
  remember();
  running = new AbortController();
  messages.push(message);
  busy(true);
  const item = $('log').lastChild, words = item.querySelector('.words');
  const draw = () => {
    const follow = atEnd();                            // unless the reader has scrolled away
    frame = 0;
    words.append(message.content.slice(shown));
    shown = message.content.length;
    if (pieces) $('speed').textContent = speed(pieces, (pieces - 1) / (last - first) * 1000);
    if (follow) toEnd();
  };
  item.classList.add('writing');
  try {
    const question = body();
    question.messages = question.messages.slice(0, -1);
    const response = await fetch('v1/chat/completions', {method: 'POST', headers: headers(), body: JSON.stringify(question), signal: running.signal});
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices?.[0]?.delta?.content;
      finish = event.choices?.[0]?.finish_reason || finish;
      timings = event.timings || timings;
      if (!piece) continue;
      message.content += piece;
      last = performance.now();
      if (!pieces++) first = last;
      frame ||= requestAnimationFrame(draw);
    }
    if (!finish) throw new Error('The server broke the answer off');
    if (!message.content) throw new Error('The answer is empty');
  } catch (error) {
    stopped = error.name === 'AbortError';
    if (!stopped) problem(because(error));
  }
  cancelAnimationFrame(frame);
  draw();
  words.normalize();
  item.classList.remove('writing');
  running = null;
  if (!message.content) {
    messages.pop();
    if (old) messages.push(old);
    render();
  }
  busy(false);
  if (timings) {
    $('speed').textContent = speed(timings.predicted_n, timings.predicted_per_second) + ', prompt ' + (timings.prompt_n + timings.cache_n) +
        (timings.cache_n ? ' (' + timings.cache_n + ' cached)' : '') + fullness(timings) + (finish === 'length' ? ', cut off at the limit' : '');
  } else {
    const end = stopped ? 'stopped' : 'not finished';
    $('speed').textContent = pieces ? speed(pieces, (pieces - 1) / (last - first) * 1000) + ', ' + end : stopped ? end : '';
  }
  say(stopped ? 'Stopped' : finish ? message.content : '');
  remember();
  if (timings) learn();
}

function speed(tokens, rate) {
  return tokens + (tokens === 1 ? ' token' : ' tokens') + (rate > 0 && rate < 1e6 ? ', ' + rate.toFixed(1) + ' tokens/s' : '');
}

function fullness(timings) {
  const used = timings.prompt_n + timings.cache_n + timings.predicted_n;
  return context ? ', context ' + used + ' of ' + context : '';
}

// What fetch throws without a connection is a TypeError, worded differently by each browser.
function because(error) {
  return error.name === 'TypeError' ? 'No connection to the server' : error.message;
}

function problem(text) {
  $('problem').textContent = text;
  if (text) toEnd();
}

// Screen readers hear an answer once, when it is whole, not piece by piece; afterwards it is only in its place.
function say(text) {
  $('said').textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $('said').textContent = ''; }, 1000);
}

// While an answer is written, the conversation can only be stopped.
function busy(now) {
  $('log').setAttribute('aria-busy', now);
  $('send').hidden = now;
  $('stop').hidden = !now;
  $('new').disabled = now;
  if (now) {
    render();
    toEnd();
    problem('');
    say('Writing');
    $('speed').textContent = 'reading';
  } else if (!coarse() && !$('settings').open) $('text').focus();      // on a phone that would open the keyboard
}

async function listModels() {
  try {
    const response = await fetch('v1/models', {headers: headers()});
    if (!response.ok) throw new Error(await refusal(response));
    const names = (await response.json()).data.map(model => model.id);
    if (!names.includes(settings.model)) settings.model = '';
    $('model').replaceChildren(...names.map(name => element('option', {value: name, textContent: name})));
    $('model').value = settings.model || names[0];
    problem('');
    if (names.length === 1) learn();
  } catch (error) {
    problem(because(error));
  }
}

// Shows the server's settings for the chosen model. Asking loads a model, so of several only one that has just answered is asked for.
async function learn() {
  const model = $('model').value;
  if (known === model) return;
  try {
    const response = await fetch('props?model=' + encodeURIComponent(model), {headers: headers()});
    if (!response.ok) return;
    const {n_ctx, params} = (await response.json()).default_generation_settings;
    known = model;
    context = n_ctx;
    for (const name of ['temperature', 'top_p', 'top_k', 'min_p', 'repeat_penalty']) field(name).placeholder = params[name];
    field('max_tokens').placeholder = params.n_predict < 0 ? 'no limit' : params.n_predict;
  } catch (error) { /* a server without /props: the fields stay empty */ }
}

function field(name) {
  return $('settings-form').elements[name];
}

// ------------------------------------------------------------------------------------------------ controls

function coarse() {
  return matchMedia('(pointer: coarse)').matches;
}

// Whether a key sends what is in a text box: Enter, except on a phone, whose keyboards have no Shift+Enter.
function sends(event) {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || coarse()) return false;
  event.preventDefault();
  return true;
}

function grow(box) {
  const follow = atEnd();
  box.style.height = 'auto';
  box.style.height = box.scrollHeight + 2 + 'px';
  if (follow && box === $('text')) toEnd();
}

function applyTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function fillSettings() {
  for (const field of $('settings-form').elements) if (field.name in settings) field.value = settings[field.name];
}

$('form').onsubmit = event => {
  const text = $('text').value.trim();
  event.preventDefault();
  if (!text || running) return;
  $('text').value = '';
  grow($('text'));
  ask(text);
};
$('text').oninput = () => grow($('text'));
$('text').onkeydown = event => { if (sends(event)) $('form').requestSubmit(); };
$('stop').onclick = () => running && running.abort();
document.onkeydown = event => { if (event.key === 'Escape' && !event.isComposing && running && !$('settings').open) running.abort(); };
$('new').onclick = () => {
  messages = [];
  session = newSession();
  problem('');
  $('speed').textContent = '';
  render();
  remember();
  $('text').focus();
};
$('model').onchange = () => {
  settings.model = $('model').value;
  known = null;
  context = 0;
  remember();
};
$('settings-open').onclick = () => {
  const key = settings.key;
  fillSettings();
  $('settings').onclose = () => { if (settings.key !== key) listModels(); };
  $('settings').showModal();
};
$('settings-form').oninput = event => {
  if (event.target.checkValidity()) settings[event.target.name] = event.target.value;
  applyTheme();
  remember();
};
$('settings-reset').onclick = () => {
  settings = {...defaults, key: settings.key, model: settings.model};
  fillSettings();
  applyTheme();
  remember();
};

recall();
applyTheme();
render();
toEnd();
if (!coarse()) $('text').focus();
listModels();
