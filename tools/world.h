/* world.h: a small world of animals and children, told in simple English, and a grammar that goes both ways.

   The same table of sentences is used to write stories (fill the slots of a sentence) and to read them (find the sentence
   that a text fits, and get the slots back), and the same rules say what a sentence needs to be true before it and makes
   true after it. So a story can be generated, questions about it can be asked with the answers known, and a text from
   anywhere - a language model that was trained on these stories - can be judged: does every sentence fit the grammar, and
   do the names, kinds, colours, owners and places agree with what was said before.

       static world w;                                   (0.7 MB)
       char story[WORLD_MAX_TEXT];
       world_verdict verdict;
       world_init(&w);
       world_story(&w, 7, story, sizeof story);          the story number 7
       world_check(&w, story, strlen(story), &verdict);  verdict.consistent is 1 for every story of world_story

       static world_doc doc;
       world_make_quiz(&w, 7, &doc);                     ask doc.message[0 .. doc.n - 2], the user's first; the right
                                                         answer is doc.message[doc.n - 1] and must contain doc.key
       world_make_document(&w, 7, &doc);                 one document of the corpus; doc.held_out: not for training

   Everything depends on the 64-bit seed alone: no floating point, no libc random numbers, the same on every platform.
   Nothing is allocated; a world is read-only once made, so threads may share it.

   C99, no dependency beyond libc.

   Contents: words; sentences; plots; questions; tables; reading; rules; writing; documents; checking. */
#ifndef BITNET_WORLD_H
#define BITNET_WORLD_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__GNUC__)
#define WORLD_FN static __attribute__((unused))
#else
#define WORLD_FN static
#endif

#define WORLD_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ------------------------------------------------------------------------------------------------ words */

/* Classes of words. An entry may be several words ("paper boat"). */
enum {
    WC_GIRL, WC_BOY, WC_KIND, WC_TRAIT, WC_OBJECT, WC_COLOUR, WC_PLACE, WC_FOOD, WC_FEAR, WC_BUILD, WC_MATERIAL,
    WC_SKILL, WC_ACT, WC_PLANT, WC_SAD, WC_GLAD, WC_WEATHER, WC_TIME, WC_SPOT, WC_HOW, WC_CRY, WC_FINE, WC_N
};

/* Entries, separated by commas; "/h" marks kinds that are no animals. In WC_OBJECT, what comes
   before the ";" can break. In WC_PLACE the first word is how one is there ("by river": by the river). */
static const char *const world_classes[WC_N] = {
    /* WC_GIRL */ "Ruby,Lily,Emma,Anna,Mia,Ella,Lucy,Molly,Nora,Zoe,Clara,Daisy,Eva,Grace,Hannah,Ivy,Julia,Kate,Laura,Maya,"
    "Nina,Olive,Polly,Rosa,Sara,Tilly,Vera,Wendy,Amy,Bella,Carla,Dora,Fiona,Greta,Heidi,Jane,Lena,Mary,Nelly,Paula,Sally,"
    "Tina,Alice,Betty,Cora,Ellen,Holly,Judy,Kitty,Luna,Carol,Donna,Edith,Freda,Gina,Helen,Irene,Jenny"
    ",Karen,Linda,Martha,Nancy,Pearl,Rachel,Sophie,Susan,Tessa,Ursula,Violet,Zara",
    /* WC_BOY */ "Tom,Ben,Sam,Max,Leo,Jack,Tim,Finn,Oscar,Peter,Adam,Bruno,Carl,Daniel,Eddie,Felix,George,Henry,Ivan,Jacob,"
    "Kevin,Luke,Martin,Nick,Otto,Paul,Robin,Simon,Toby,Victor,Walter,Alex,Billy,Charlie,David,Eric,Frank,Gus,Hugo,Jim,"
    "Kurt,Louie,Milo,Noah,Oliver,Philip,Ralph,Stanley,Theo,Willy,Arthur,Barney,Colin,Dennis,Edgar,Fred,Gilbert,Harry"
    ",Isaac,Joel,Kenny,Lewis,Morris,Neil,Owen,Percy,Roger,Steve,Trevor,Wilbur",
    /* WC_KIND */ "fox,bear,rabbit,mouse,cat,dog,duck,frog,owl,pig,goat,sheep,horse,llama,lynx,squirrel,hedgehog,badger,"
    "beaver,otter,mole,deer,wolf,lion,tiger,elephant,monkey,penguin,turtle,snail,bee,ant,beetle,butterfly,parrot,swan,"
    "goose,donkey,camel,panda,koala,kangaroo,zebra,giraffe,hippo,lizard,dragon,crow,robin,sparrow,lamb,kitten,puppy,pony,"
    "raccoon,seal,whale,dolphin,crab,hamster,elf/h,dwarf/h,clown/h,tailor/h,farmer/h,baker/h,sailor/h,painter/h,robot/h,giant/h,rat,toad,bat,eagle,hawk,stork,seagull,pigeon,peacock,ostrich"
    ",gecko,turkey,moose,calf,foal,colt,weasel,skunk,chipmunk,walrus,octopus,salmon,spider,cricket,moth,worm,gorilla"
    ",hunter/h,singer/h,knight/h,pirate/h,gardener/h,teacher/h,doctor/h,shepherd/h,nurse/h,juggler/h,cook/h,miller/h",
    /* WC_TRAIT */ "small,little,young,kind,brave,shy,clever,gentle,cheerful,curious,quiet,funny,friendly,careful,lazy,busy,"
    "tall,round,strong,sleepy,polite,proud,quick,slow,patient,helpful,merry,tidy,lonely,playful,silly,wise,noisy,"
    "thoughtful,bold,calm,nervous,modest,honest,hopeful,graceful,sturdy,tiny,chubby"
    ",daring,mischievous,dreamy,grumpy,generous,adventurous,fluffy,handsome,skinny,lively,serious,humble",
    /* WC_OBJECT */ "kite,drum,boat,toy train,wagon,bicycle,lamp,cup,bowl,plate,jug,teapot,clock,watch,mirror,whistle,flute,"
    "trumpet,violin,guitar,bell,lantern,umbrella,chair,stool,sled,scooter,wheelbarrow,bucket,spade,rake,hammer,basket,box,"
    "chest,music box,spinning top,yoyo,puppet,doll,paper boat,windmill,telescope,compass,magnet,necklace,bracelet,crown,"
    "brush,comb,fan,vase,candle,bottle,jar,spoon,fork,ladder,fishing rod,net,swing,hoop,airplane,rocket,truck,toy car,"
    "robot arm,pencil,crayon,paintbrush,ruler,suitcase,birdhouse,stick,oar,wand,shield,toy sword,picture frame,"
    "paper lantern,snow globe,piggy bank,toy castle,block;ball,balloon,scarf,hat,cap,coat,glove,mitten,sock,shoe,boot,"
    "slipper,ribbon,blanket,pillow,bag,sack,backpack,purse,book,notebook,map,letter,postcard,stamp,photo,flag,feather,"
    "shell,pebble,marble,button,bead,coin,key,ring,rope,string,cloth,towel,apron,dress,shirt,sweater,jacket,belt,bow tie,"
    "teddy bear,rag doll,cushion,rug,curtain,tent,leaf,flower,rose,tulip,acorn,pine cone,crystal,stone,gem,egg,cape,mask,"
    "wig,handkerchief,basketball,jump rope,sponge,quilt,vest,helmet,saddle,leash,bonnet,shawl,kimono"
    ",necktie,pouch,tape,diary,calendar,ticket,poster,painting,carpet,hammock,parasol,sandal,thimble,needle,banner",
    /* WC_COLOUR */ "red,blue,green,yellow,orange,purple,pink,white,black,brown,grey,golden",
    /* WC_PLACE */ "by river,by lake,in forest,in garden,on hill,on beach,in barn,in meadow,in park,by pond,in cave,"
    "on bridge,in kitchen,in attic,in cellar,at market,at school,in library,by well,by mill,in orchard,on farm,"
    "in village,by sea,on island,in valley,on mountain,in desert,in jungle,in castle,in tower,by fountain,in shed,"
    "in stable,in field,on road,on path,at station,in harbour,on ship,at bakery,in cottage,by waterfall,by stream,"
    "in swamp,in tunnel,under oak,under willow,behind church,behind fence,in town,on playground,in greenhouse,in hut,"
    "in tree house,in workshop,by lighthouse,on dune,in vineyard,in courtyard,in mine,on roof,in theatre,at museum,in hospital,in palace"
    ",on balcony,in basement,at zoo,by canal,on pier,in tavern,at fair,in canyon,on glacier,in cornfield,by quarry,in temple",
    /* WC_FOOD */ "apple,pear,plum,peach,banana,carrot,sandwich,muffin,pancake,cookie,biscuit,cake,pie,bun,pretzel,"
    "cheese roll,berry tart,apple pie,honey cake,lemon,melon,turnip,potato,tomato,waffle,dumpling,omelette,salad,"
    "nut bar,cherry pie,loaf,sausage,corn cob,pumpkin pie,cupcake,jam tart,raisin bun,pizza,egg roll,raisin,walnut,cracker,doughnut,fig,cucumber,radish"
    ",strudel,cheesecake,mushroom,grapefruit,coconut,pineapple,mango,meatball,brownie,pickle",
    /* WC_FEAR */ "the dark,thunder,deep water,loud noises,spiders,high places,shadows,ghosts,big waves,lightning,"
    "strangers,the night,bats,strong winds,steep stairs,the old house,snakes,wasps,the long tunnel,the cold",
    /* WC_BUILD */ "raft,snowman,sand castle,bench,nest,dam,hut,wall,bridge,fort,shelter,cart,table,shelf,cabin,slide,seesaw,"
    "scarecrow,fence,bird table,tree bench,campfire,little house,puppet theatre,rowing boat,tower,wagon,kennel,pigsty,gate,ramp,igloo,well"
    ",staircase,lookout,sundial,stage,carousel",
    /* WC_MATERIAL */ "wood,stones,branches,snow,sand,clay,bricks,straw,cardboard,leaves,logs,planks,mud,twigs,reeds,"
    "bamboo,old boxes,ice,paper,moss",
    /* WC_SKILL */ "swim,whistle,dance,read,write,sing,count to ten,climb,jump high,skate,juggle,paint,bake bread,knit,cook,"
    "ride a bicycle,play chess,tie a knot,row,float,sew,draw a horse,tell the time,catch a fish,fly a plane,"
    "spell a long word,stand on one leg,plant a tree,milk a cow,turn a somersault",
    /* WC_ACT */ "climbing trees,telling stories,looking at the stars,picking berries,singing songs,swimming,dancing,"
    "painting pictures,reading,collecting shells,counting clouds,jumping in puddles,baking,fishing,flying high,"
    "running fast,digging holes,sleeping late,making jokes,chasing butterflies,playing music,watching birds,"
    "growing vegetables,cooking,sailing,riding,skipping,drawing maps,solving riddles,building towers,rolling down hills,"
    "catching raindrops,playing cards,knitting,walking in the moonlight,listening to the wind,gardening,whistling,hiking,racing down the lane,weaving baskets"
    ",juggling pebbles,planting flowers,feeding the birds,flying kites,folding paper,exploring,camping,skating,writing letters,polishing shoes,arranging furniture,inventing games,sweeping leaves",
    /* WC_PLANT */ "pumpkin,sunflower,rose bush,cherry tree,bean,cabbage,melon vine,tulip,apple tree,strawberry,daisy,pea,"
    "cucumber,radish,pear tree,lily,poppy,onion,tomato plant,grape vine",
    /* WC_SAD */ "sad,unhappy,upset,worried,gloomy,sorry,miserable,troubled,lonesome,heartbroken,disappointed,downcast",
    /* WC_GLAD */ "happy,glad,delighted,joyful,pleased,cheerful,thankful,excited,overjoyed,merry,content,grateful",
    /* WC_WEATHER */ "sunny,warm,cloudy,windy,rainy,cold,bright,foggy,hot,snowy,mild,frosty,breezy,grey,fresh",
    /* WC_TIME */ "one day,one morning,one afternoon,one evening,one summer day,one winter day,one autumn day,"
    "one spring morning,one Sunday,one Monday,one Tuesday,one Wednesday,one Thursday,one Friday,one Saturday,"
    "early one morning,late one afternoon,one fine day,the next day,the next morning,after breakfast,after lunch,"
    "before supper,a week later,some days later",
    /* WC_SPOT */ "under the bed,behind the door,in the cupboard,under the table,behind the sofa,in every drawer,"
    "on the roof,between the bushes,under the leaves,in the tall grass,behind the curtains,on top of the wardrobe,"
    "in the washing basket,under the stairs,behind the chimney,in the letter box,inside the oven,under the carpet,"
    "among the flowers,next to the gate",
    /* WC_HOW */ "carefully,quietly,slowly,quickly,gently,bravely,happily,eagerly,proudly,patiently,"
    "politely,warmly,nervously",
    /* WC_CRY */ "oh no,oh dear,goodness,my goodness,dear me,good heavens,help,what now",
    /* WC_FINE */ "beautiful,lovely,wonderful,pretty,fine,shiny,splendid,marvellous,special,nice,charming,perfect"
};

/* --------------------------------------------------------------------------------------------- sentences */

/* Roles: what a slot is filled with. S, T and U are characters, X and Y objects, the others entries of a class. */
enum {
    WR_S, WR_T, WR_U, WR_X, WR_Y, WR_P, WR_Q, WR_D, WR_R, WR_B, WR_M, WR_H, WR_J, WR_L, WR_F, WR_G, WR_W, WR_I, WR_N,
    WR_V, WR_Z, WR_A, WR_K, WR_C, WR_ROLES
};
static const char world_role_letters[] = "STUXYPQDRBMHJLFGWINVZAKC";
static const int world_role_class[WR_ROLES] = {
    -1, -1, -1, WC_OBJECT, WC_OBJECT, WC_PLACE, WC_PLACE, WC_FOOD, WC_FEAR, WC_BUILD, WC_MATERIAL, WC_SKILL, WC_ACT,
    WC_PLANT, WC_SAD, WC_GLAD, WC_WEATHER, WC_TIME, WC_SPOT, WC_HOW, WC_CRY, WC_FINE, WC_KIND, WC_COLOUR
};

/* "#event rules" and below it the ways to say it.

   Slots: {S} the name, or he/she (a reader takes "the fox", too); {s} the same as an object (him/her); {S's} possessive; {S!} the name;
   {S~} he/she, {s~} him/her, {S's~} his/her: the character that this sentence has named already; {Sk} kind, {St} trait.
   {X} noun, perhaps with its colour; {X+} with its colour; {X!} without; {Xc} the colour alone. {P} "by the river",
   {Pn} "river". Others: an entry of the class. "a" becomes "an" where it must.

   Rules, in order: "new S": the sentence introduces S; "own S X": this must be so; "!own * X": must not be so, for
   anyone; "+own S X": is so from now on; "-own * X": no longer is. A role that the sentence does not mention matches
   everything. Predicates are whatever names appear here. */
static const char *const world_sentences[] = {
    "#open new S",
    "Once upon a time there was a {St} {Sk} named {S!}.",
    "Once upon a time, there was a {St} {Sk} called {S!}.",
    "Once upon a time there lived a {St} {Sk}, and the {Sk}'s name was {S!}.",
    "Once upon a time a {St} {Sk} was born, and everybody called {s~} {S!}.",
    "Long ago there was a {St} {Sk} named {S!}.",
    "There once was a {St} {Sk} whose name was {S!}.",
    "In a land far away there lived a {St} {Sk} named {S!}.",
    "#openhome new S, +home S P",
    "Once upon a time a {St} {Sk} named {S!} lived {P}.",
    "Once upon a time there was a {St} {Sk} named {S!}, who lived {P}.",
    "Long ago, a {St} {Sk} called {S!} had a home {P}.",
    "Once there was a {Sk} named {S!} who lived {P}.",
    "#openown new S, new X, +own S X",
    "Once upon a time there was a {St} {Sk} named {S!} who had a {X+}.",
    "Once upon a time a {Sk} named {S!} owned a {A} {X+}.",
    "Long ago there lived a {Sk} called {S!}, and {S~} had a {X+}.",
    "#live !home S, +home S P",
    "{S} lived {P}.",
    "{S} had a cosy little home {P}.",
    "{S's} house stood {P}.",
    "#like +like S J",
    "{S's} favourite hobby was {J}.",
    "Nobody enjoyed {J} as much as {S}.",
    "Even in bad weather {S} enjoyed {J}.",
    "{S} loved {J}.",
    "More than anything else, {S} liked {J}.",
    "{S} was very good at {J}.",
    "In the mornings {S} often thought about {J}.",
    "{S} spent many happy hours {J}.",
    "#meet new T, +friend S T, +friend T S",
    "{S's} best friend was a {Tk} named {T!}.",
    "{S} had a friend named {T!}, who was a {Tk}.",
    "{S} had a good friend, a {Tt} {Tk} named {T!}.",
    "Next door lived {S's} friend {T!}, a {Tt} {Tk}.",
    "{S} often played with {T!}, a {Tt} {Tk}.",
    "A {Tt} {Tk} named {T!} was {S's} best friend.",
    "#meetnew new T, +met S T, +met T S",
    "On the way {S} met a {Tt} {Tk} named {T!}.",
    "{I} {S} met {T!}, a {Tt} {Tk}.",
    "Then a {Tk} came along, and the {Tk}'s name was {T!}.",
    "Just then a {Tt} {Tk} named {T!} came around the corner.",
    "There {S} saw a {Tk}. \"I am {T!},\" said the {Tk}.",
    "\"Hello! My name is {T!},\" said a {Tt} {Tk} to {s}.",
    "#own new X, !own * X, +own S X",
    "{S} had a {X+}.",
    "{S} had a {A} {X+}.",
    "{S's} favourite thing was a {X+}.",
    "A {X+} belonged to {s}.",
    "The most precious thing that {S} owned was a {X+}.",
    "Of all the things in the house, {S} loved a {X+} the most.",
    "{S} owned a {X+}, and it was {A}.",
    "#play own S X",
    "The {X} was dearer to {s} than anything else in the world.",
    "At night the {X} lay next to {S's} bed.",
    "The {X} went everywhere with {s}.",
    "There was a secret sign on the {X}, so that everybody knew it was {S's}.",
    "To lose the {X} was the only thing that worried {s}.",
    "Looking at the {X} made {s} smile every day.",
    "The {X} would not have been sold by {s} for a thousand pieces of silver.",
    "Everyone said that the {X} of {S!} was {A}.",
    "When visitors arrived, the {X} was always fetched by {s}.",
    "Only for the {X} did {S} have eyes.",
    "So proud of the {X} was {S!} that nobody was allowed to touch it.",
    "#go +went S P",
    "{I} {S} went to the {Pn}.",
    "{I} {S} walked to the {Pn}.",
    "{I}, {S} set off for the {Pn}.",
    "{I}, {S} ran all the way to the {Pn}.",
    "{S} wanted some fresh air and went to the {Pn}.",
    "#gotwo friend S T, +went S P, +went T P",
    "{I} {S!} and {T!} went to the {Pn}.",
    "{I}, {S} took {t} along to the {Pn}.",
    "{I} {S!} and {T!} walked to the {Pn} together.",
    "\"Let us go to the {Pn},\" {S} said to {t}.",
    "#scene",
    "Two swallows circled high above the chimneys.",
    "A gentle drizzle had washed the dusty streets.",
    "Golden light fell through the branches.",
    "Thick mist covered the whole countryside.",
    "Frogs croaked and crickets sang all around.",
    "The stars twinkled like tiny diamonds.",
    "Icicles glittered in the pale sunlight.",
    "Somebody was playing an accordion not far away.",
    "Smoke rose from all the kitchens, and it smelled of fresh bread.",
    "Ripe cherries hung from every twig.",
    "The first daffodils had opened overnight.",
    "A woodpecker hammered against an ancient trunk.",
    "It was a {W} day.",
    "It was a {W} morning, and the birds were singing.",
    "The sun was shining in the blue sky.",
    "White clouds sailed across the sky.",
    "The air smelled of hay and honey.",
    "A soft wind blew through the trees.",
    "Far away a bell was ringing.",
    "The grass was still wet with dew.",
    "Snow lay on all the roofs.",
    "The leaves were turning brown.",
    "Bees were humming in the flowers.",
    "A rainbow stood over the hills.",
    "The moon was big and round that night.",
    "Somewhere a cricket was chirping.",
    "It was a {W} day, and nobody was in a hurry.",
    "#lose own S X, -own S X, +lost S X, +losthist S X",
    "{I} the {X} was gone, and {S} did not know where it was.",
    "But {I} the {X} fell out of {S's} bag.",
    "{I} the {X} slipped out of {S's} pocket and was lost.",
    "But then something bad happened: the {X} was lost, for {S} had not been careful.",
    "On the way home the {X} was lost, because {S} had left it somewhere.",
    "There was a hole in a bag, and the {X} of {S!} was lost.",
    "While everybody slept, the {X} of {S!} disappeared.",
    "#blow own S X, -own S X, +lost S X, +losthist S X",
    "A strong wind took the {X} away from {s}.",
    "Suddenly the wind blew the {X} out of {S's} hands.",
    "A gust of wind lifted the {X} into the air, and {S} could not hold it.",
    "#sadlost lost S X, +sadlost S X F",
    "Because the {X} was lost, {S} was very {F}.",
    "Because of the lost {X!}, {S} felt {F}.",
    "Without the {X}, {S} felt {F}.",
    "The loss of the {X} made {s} {F}.",
    "How {F} {S} was without the {X}!",
    "#search lost S X",
    "For the {X}, {S} turned the whole place upside down, without success.",
    "Hour after hour {S} hunted for the {X}.",
    "To find the {X}, {S} looked everywhere.",
    "To find the {X}, {S} looked {N}.",
    "To find the {X}, {S} looked {N} and {N}, but it was not there.",
    "\"Where can my {X!} be?\" thought {S!}.",
    "\"{Z}! Where is my {X}?\" cried {S!}.",
    "#asklost lost S X",
    "\"I have lost my {X},\" {S} told {t}.",
    "\"Have you seen my {X}?\" {S} asked {t}.",
    "\"Why do you cry, {S!}?\" asked {T!}. \"Because my {X!} is gone.\"",
    "About the lost {X!}, {S} told {t} everything.",
    "\"Please help me to find my {X},\" {S} said to {t}.",
    "#offer lost T X",
    "\"Let us look for your {X} together, {T!},\" said {S!}.",
    "\"I will help you to find the {X}, {T!},\" said {S!}.",
    "\"Don't cry, {T!},\" said {S!}. \"We will find your {X!}.\"",
    "#find lost * X, -lost * X, +own S X, +found S X P",
    "{S} found the {X} {P}.",
    "{I} {S} found the {X} {P}.",
    "At last, {S} saw the {X} {P} and picked it up.",
    "The {X} was lying {P}, and there {S} found it.",
    "The {X} was {P}, and {S} was the one who saw it first.",
    "\"Look what I have found {P}!\" said {S!}, holding the {X}.",
    "#giveback own S X, losthist T X, -own S X, +own T X, +gave S T X, +returned S X",
    "\"Here is your {X}, {T!},\" said {S!}, and gave it back.",
    "To give back the {X}, {S} ran to {t}.",
    "\"Is this your {X!}, {T!}?\" asked {S!}. \"Yes!\"",
    "With the {X} in both hands, {S} ran to {t} and gave it back.",
    "Of course the {X} was given back to {t} by {s}.",
    "#gladback own S X, found T X, +gladback S X G T",
    "Because {T} had found the {X}, {S} was {G}.",
    "\"You found my {X}!\" {S} said to {t}.",
    "Thanks to {t}, the {X} was back, and {S} felt {G}.",
    "To have the {X} back from {t} made {s} {G}.",
    "#gladself own S X, found S X, +gladself S X G",
    "Finding the {X} made {s} {G}.",
    "To have the {X} again was wonderful, and {S} was {G}.",
    "\"I have my {X} back!\" cried {S!}.",
    "#thank gave T S",
    "\"How can I ever repay you, {T!}?\" said {S!}.",
    "For this, {S} gave {t} an enormous hug.",
    "\"That was awfully kind of you, {T!},\" said {S!}.",
    "\"Thank you, {T!},\" said {S!}.",
    "With all heart, {S} thanked {t}.",
    "\"You are a true friend, {T!},\" said {S!}.",
    "#keep own S X",
    "For the {X}, {S} built a little shelf.",
    "Whoever asked was allowed to see the {X} of {S!}.",
    "The {X} was treasured by {s} for a lifetime.",
    "From then on {S} took good care of the {X}.",
    "In a safe place {S} kept the {X} for many years.",
    "The {X} never left {S's} side again.",
    "With the {X} under one arm, {S} went home.",
    "That night {S} fell asleep with the {X}.",
    "The {X} stayed with {s}.",
    "Now the {X} belonged to {s}.",
    "#colour own S X",
    "The colour of the {X!} was {Xc}, and {S} liked it.",
    "\"I like {Xc} things,\" said {S!}, and looked at the {X!}.",
    "Everybody liked the {Xc} colour of the {X!} that {S} had.",
    "#want new X, !own * X, +want S X",
    "{S} wanted a {X+}.",
    "{S} wished for a {X+}.",
    "More than anything else, {S} wanted a {X+}.",
    "Every night {S} dreamed of a {X+}.",
    "\"I wish I had a {X+},\" {S} often said.",
    "In a shop window {S} saw a {X+}, and {S~} wanted it very much.",
    "#nomoney want S X",
    "But there was no money for a {X!}, and {S} knew it.",
    "But a {X!} cost too much.",
    "But where could {S} get a {X!}?",
    "#wantsad want S X, !own S X, +sadwant S X F",
    "Because there was no {X!} at home, {S} was {F}.",
    "Without a {X!}, {S} felt {F}.",
    "Not to have a {X!} made {s} {F}.",
    "#tellwish want S X",
    "About the {X}, {S} told {t} again and again.",
    "\"I would love to have a {X+},\" {S} said to {t}.",
    "The wish for a {X!} was no secret: {S} had told {t}.",
    "\"What do you wish for, {S!}?\" asked {T!}. \"A {X+}!\"",
    "#work +worked S P",
    "{S} worked hard {P} and saved every coin.",
    "Every day {S} helped the people {P}.",
    "So {S} went to work {P}.",
    "#buy want S X, !own * X, -want S X, +own S X, +bought S X",
    "{I} there was enough money for the {X}, and {S} bought it.",
    "At last {S} could buy the {X}.",
    "Nobody else had bought the {X}, so {S} took it home.",
    "#make want T X, !own * X, -want T X, +own S X, +made S X, +forwhom X T",
    "\"{T!} shall have a {X+},\" thought {S!}, and made it.",
    "In secret, a {X+} for {t} was made by {s}.",
    "For {t}, {S} made a {X+}.",
    "With paint and glue, {S} made a {X+} for {t}.",
    "#give own S X, -own S X, +own T X, +gave S T X",
    "\"This {X} is for you,\" said {S!}, and gave it to {t}.",
    "\"You can have my {X},\" {S} said to {t}, and gave it away.",
    "As a present, the {X} went from {s} to {t}.",
    "So the {X} changed hands: {S} gave it to {t}.",
    "The {X} was a present from {s} to {t}.",
    "\"It is yours now,\" said {S!}, and put the {X} into {T's} hands.",
    "#wrap own S X, !own T X",
    "In paper with stars on it, {S} wrapped the {X} for {t}.",
    "The {X} was a secret, so {S} hid it from {t}.",
    "#fairy want S X, !own * X, -want S X, +own S X, +wish S X",
    "A star fell from the sky, and there lay the {X}, just for {s}.",
    "Like magic, the {X} suddenly lay next to {S's} bed.",
    "The wish came true: the {X} was suddenly in {S's} hands.",
    "A kind old fairy heard it and gave {s} the {X}.",
    "#gladgift own S X, gave T S X, +gladgift S X G T",
    "Because {T} had given away the {X}, {S} was {G}.",
    "The {X} from {t} made {s} {G}.",
    "Never had a present made {s} as {G} as the {X} from {t}.",
    "With the new {X!}, {S} danced around {t}.",
    "\"A {X!}! For me?\" cried {S!}, and was so {G}.",
    "#gladown own S X, +gladown S X G",
    "Because of the {X}, {S} was {G}.",
    "To own the {X} made {s} {G}.",
    "Now the {X} was there, and {S} was {G}.",
    "#notwant own S X, own T Y",
    "\"Your {Y!} is nicer than my {X!},\" {S} said to {t}.",
    "Nicer than the {X} of {S!} was the {Y} of {T!}.",
    "The {Y} of {T!} pleased {s} more than the {X}.",
    "#asktrade own S X, own T Y",
    "\"Shall we trade? My {X!} for your {Y!},\" {S} said to {t}.",
    "To trade the {X} for the {Y} of {T!} was what {S} wanted.",
    "\"I will give you my {X} for your {Y},\" {S} told {t}.",
    "#trade own S X, own T Y, -own S X, -own T Y, +own S Y, +own T X, +gave S T X, +gave T S Y",
    "The {X} went from {s} to {t}, and the {Y} came back for it.",
    "For the {X}, {S} got the {Y} from {t}.",
    "\"Agreed,\" said {T!}, and so {S} got the {Y} for the {X}.",
    "#bothglad own S X, own T Y",
    "Now the {X} belonged to {s}, the {Y} to {t}, and both of them were {G}.",
    "The {X} was the joy of {S!}, and the {Y} was the joy of {T!}.",
    "With the {X} played {S!}, and with the {Y} played {T!}.",
    "#break own S X, !broken X, +broken X, +brokehist S X",
    "But {I} the {X} broke.",
    "{I} the {X} fell down and broke into two pieces.",
    "{I} the {X} of {S!} broke.",
    "The {X} broke, because {S} was not careful.",
    "There was a loud crack, and the {X} of {S!} was broken.",
    "#breakother own T X, !broken X, +broken X, +brokeby S X",
    "The {X} of {T!} broke, because {S} sat down on it.",
    "{I} the {X} of {T!} broke, because {S} had dropped it.",
    "By accident, {S} broke the {X} of {T!}.",
    "The {X} of {T!} broke in the hands of {S!}.",
    "#sadbroke own S X, broken X, +sadbroke S X F",
    "Because the {X} was broken, {S} was {F}.",
    "The sight of the broken {X!} made {s} {F}.",
    "\"My {X} is broken!\" cried {S!}.",
    "Next to the broken {X!}, {S} sat down and cried.",
    "#mend broken X, -broken X, +mended S X",
    "{S} mended the {X} with glue and string.",
    "{S} took some tools and repaired the {X}.",
    "{S} worked {V}, and soon the {X} was whole again.",
    "It took a long time, but {S} repaired the {X}.",
    "\"I can fix it,\" said {S!}, and mended the {X}.",
    "{S} put the pieces of the {X} together again.",
    "#gladmend own S X, mended T X, !broken X, +gladmend S X G T",
    "Because {T} had mended the {X}, {S} was {G}.",
    "\"Thank you for mending my {X}, {T!},\" said {S!}.",
    "The {X} was as good as new, and {S} thanked {t}.",
    "#sorry brokeby S X, own T X",
    "\"I am sorry about your {X},\" {S} said to {t}.",
    "About the broken {X!}, {S} told the truth to {t}.",
    "\"I did not want to break your {X!},\" {S} told {t}.",
    "#forgive brokeby T X, own S X",
    "The {X} was not so important, and {S} was not angry with {t}.",
    "\"It was an accident,\" {S} said to {t}.",
    "\"You are still my friend, {T!},\" said {S!}.",
    "At once {S} forgave {t}.",
    "#fear !fear S R, +fear S R, +fearhist S R",
    "Most things did not bother {s}, but {S} dreaded {R}.",
    "{S} was afraid of {R}.",
    "There was one thing that {S} feared: {R}.",
    "{S} was always scared of {R}.",
    "{S} did not like {R} and trembled.",
    "#fearshow fear S R",
    "Because of {R}, {S} hid {N}.",
    "Because of {R}, {S} could not sleep.",
    "\"I am so afraid of {R}!\" {S} whispered to {t}.",
    "About {R}, {S} told {t} in a whisper.",
    "#comfort fear T R, +comforted S T",
    "\"You need not be afraid of {R}, {T!},\" said {S!}. \"I am with you.\"",
    "\"I used to be afraid of {R}, too,\" {S} told {t}.",
    "So that {R} seemed far away, {S} sang a soft song for {t}.",
    "Against {R}, it helped {t} that {S} stayed.",
    "#brave fear S R, -fear S R, +brave S R",
    "From that day on, {R} did not frighten {s} any more.",
    "Suddenly {R} did not matter, and {S} felt brave.",
    "Without a thought of {R}, {S} took a deep breath.",
    "#gladcomfort comforted T S, +gladcomfort S G T",
    "Because {T} was there, {S} felt safe.",
    "Because {T} had stayed, {S} was {G}.",
    "\"With you I am brave, {T!},\" said {S!}.",
    "#race +race S T P, +race T S P",
    "{I} {S!} and {T!} ran a race to the {Pn}.",
    "\"Who is faster? Let us race to the {Pn},\" {S} said to {t}.",
    "{I} {S!} and {T!} wanted to know who was the first to reach the {Pn}.",
    "#run race S T",
    "{S} tumbled over a root, yet leapt up again in an instant.",
    "Both {S!} and {T!} were panting, and their cheeks glowed.",
    "Spectators lined the track and clapped for {S!} and {T!}.",
    "{S} ran as fast as the wind, but {T} was close behind.",
    "{S!} and {T!} ran side by side over the bumpy ground.",
    "{S} slipped on a wet stone, but got up and ran on.",
    "At first {T} was ahead of {s}.",
    "Halfway there, {S} had to stop for breath, but {T} stopped, too.",
    "#win race S T, !won T, !won S, +won S",
    "In the end, {S} won the race against {t}.",
    "{S} came in first, and {T} came in second.",
    "{S} was the first one there, just before {t}.",
    "{S} won, and {T} cheered for the winner.",
    "#winb race T S, !won T, !won S, +won S",
    "But in the end, {S} won the race against {t}.",
    "{S} jumped over the last hedge and won against {t}.",
    "{S} was first, and {T} was second.",
    "#prize won S, new X, !own * X, +own S X, +prize S X",
    "The prize was a {X+}, and {S} took it {V}.",
    "For winning, {S} got a {X+}.",
    "As the winner, {S} got a {A} {X+}.",
    "#gladwin won S, +gladwin S G",
    "Because of the victory, {S} was {G}.",
    "The winner was {S!}, and so {G}!",
    "To win the race made {s} {G}.",
    "#sadrace won T, !won S, +sadrace S F",
    "To lose the race made {s} {F}.",
    "Because {T} had won, {S} was {F}.",
    "The one who came second, {S!}, was a bit {F}.",
    "#birthday +birthday S",
    "It was {S's} birthday.",
    "{I} {S} woke up early, because it was {S's~} birthday.",
    "{I} it was {S's} birthday, but nobody said a word about it.",
    "#sadbirthday birthday S, +sadbirthday S F",
    "Nobody seemed to know about the birthday, and {S} felt {F}.",
    "A birthday without any guest made {s} {F}.",
    "#bring birthday T, new X, !own * X, +own S X, +got S X",
    "\"{T!} needs a present,\" thought {S!}, and got a {X+}.",
    "For {T's} birthday, {S} came with a {X+}.",
    "A surprise for {t} was ready: {S} had got a {X+}.",
    "#surprise birthday T",
    "\"Surprise! Happy birthday, {T!}!\" shouted {S!}.",
    "\"Happy birthday, {T!}!\" said {S!}.",
    "Suddenly the lights went on, and for {t} a song was sung by {s}.",
    "#hasfood +food S D",
    "{S} had a {D} for lunch.",
    "{S} had baked a {D}.",
    "In {S's} bag there was a {D}.",
    "A {D} was all that {S} had brought along.",
    "#hungry +hungry S",
    "But {S} had nothing to eat and was very hungry.",
    "\"I have eaten nothing all day,\" said {S!}.",
    "So hungry was {S!} that everybody could hear it.",
    "\"I am so hungry,\" said {S!}.",
    "#share food S D, hungry T, -hungry T, +shared S T D",
    "The {D} was big enough for two, so {S} shared it with {t}.",
    "Half of the {D} went from {s} to {t}.",
    "\"Half of my {D} is for you,\" {S} said to {t}.",
    "The {D} was cut into two pieces, and {S} gave one to {t}.",
    "\"Are you hungry? Have some of my {D}, {T!},\" said {S!}.",
    "#gladfood shared T S D, +gladfood S D G T",
    "Because {T} had shared the {D}, {S} was {G}.",
    "\"This {D} is delicious! Thank you, {T!},\" said {S!}.",
    "The {D} from {t} made {s} {G}.",
    "Half of the {D} was enough for {s}.",
    "#repay shared T S, new X, !own * X, +own S X, +got S X",
    "In return for the meal, {S} came back with a {X+} for {t}.",
    "To thank {t}, {S} brought a {X+}.",
    "#plan +plan S T B, +plan T S B",
    "{S!} and {T!} wanted to build a {B}.",
    "\"Let us build a {B},\" {S} said to {t}.",
    "{I} {S} had an idea: {S~} and {T} could build a {B}.",
    "#gather plan S T B, +material B M",
    "They gathered {M} for the {B}.",
    "For the {B} they needed {M}.",
    "A lot of {M} was brought for the {B}.",
    "#fall plan S T B",
    "The first {B} fell down, but they did not give up.",
    "It was hard work, and {S!} and {T!} were soon tired.",
    "The {B} was crooked, so {T} began again.",
    "#build plan S T B, material B M, -plan S T B, -plan T S B, +built S T B, +built T S B",
    "In the evening the {B} was ready, and {S!} and {T!} were {G}.",
    "{S!} and {T!} built the {B} out of {M}.",
    "At last {S!} and {T!} had a real {B} made of {M}.",
    "After three days {S!} and {T!} finished the {B}.",
    "#usebuilt built S T B",
    "{S!} and {T!} were very proud of the {B}.",
    "Everybody came to look at the {B} of {S!} and {T!}.",
    "{S} painted the {B}, and {T} put a flag on it.",
    "#cannot !can S H, +cannot S H, +cannothist S H",
    "{S} could not {H}.",
    "There was only one problem: {S} could not {H}.",
    "All the others could {H}, but {S} could not.",
    "#sadcannot cannot S H, +sadcannot S H F",
    "Not to know how to {H} made {s} {F}.",
    "\"I will never learn to {H},\" said {S!}.",
    "To {H} was the great dream of {S!}.",
    "#teach cannot T H, +taught S T H",
    "\"I will teach you to {H}, {T!},\" said {S!}.",
    "How to {H} was shown to {t} by {s}.",
    "To learn to {H}, {T} got help from {s}.",
    "To {H} was easy for {s}, who practised with {t}.",
    "#tryagain cannot S H",
    "The first time it went wrong, but {S} tried again.",
    "To learn to {H}, {S} tried once, twice, three times.",
    "To {H} was not easy, but {S} did not give up.",
    "#learn cannot S H, taught T S H, -cannot S H, +can S H",
    "At last {S} could {H}.",
    "\"I can do it! I can {H}!\" cried {S!}.",
    "Soon {S} could {H} as well as {t}.",
    "#gladlearn can S H, +gladlearn S H G",
    "To be able to {H} made {s} {G}.",
    "Now that it was so easy to {H}, {S} was {G}.",
    "#sick !sick S, +sick S, +sickhist S",
    "{S} was sick and had to stay in bed.",
    "{I} {S} had a bad cold and a red nose.",
    "{I} {S} had a fever and could not go out.",
    "{S} was ill and felt weak.",
    "#visit sick T",
    "When the news came, {T} got a visit from {s}.",
    "\"How are you, {T!}?\" asked {S!}.",
    "At the bed of {T!}, {S} told a story.",
    "#bringfood sick T, +broughtfood S T D",
    "\"I have a {D} for you, {T!},\" said {S!}.",
    "For {t}, {S} baked a {D}.",
    "A {D} from {s} was just right for {t}.",
    "#well sick S, -sick S",
    "Soon {S} was well again.",
    "The illness went away, and {S} could get up again.",
    "After a long sleep {S} felt much better.",
    "#gladcare broughtfood T S D, !sick S, +gladcare S D G T",
    "Because {T} had brought a {D}, {S} was {G}.",
    "The {D} from {t} was never forgotten by {s}.",
    "\"Your {D} made me well, {T!},\" said {S!}.",
    "#hideplan friend S T",
    "{I} {S!} and {T!} played hide and seek.",
    "\"Let us play hide and seek,\" {S} said to {t}.",
    "{S} closed both eyes and counted to twenty, so that {T} could hide.",
    "#hide +hid S P",
    "{S} hid {P}.",
    "{S} ran away and hid {P}.",
    "Quick as lightning, {S} hid {P}.",
    "#seek hid T",
    "\"Where are you, {T!}?\" called {S!}.",
    "Not a sound came from {t}, and {S} listened {V}.",
    "To find {t}, {S} looked {N}.",
    "To find {t}, {S} looked {N} and {N}.",
    "#foundhid hid T P, -hid T P, +foundhid S T P",
    "At last {T} was found {P} by {s}.",
    "Two ears could be seen {P}: it was {T!}, and {S} laughed.",
    "A sneeze came from {t}, who had hidden {P}, and {S} heard it.",
    "#askborrow own T X",
    "\"May I borrow your {X}, {T!}?\" asked {S!}.",
    "\"Please lend me your {X}, {T!},\" said {S!}.",
    "The {X!} of {T!} was needed for one day, so {S} asked for it.",
    "#lend own S X, -own S X, +own T X, +lent S T X",
    "The {X} was lent by {s} to {t}.",
    "\"Yes, but bring it back,\" said {S!}, and {T} took the {X}.",
    "For a day the {X} went from {s} to {t}.",
    "#return lent T S X, own S X, -own S X, +own T X, +returned S X",
    "As promised, the {X} was brought back to {t} by {s}.",
    "\"Here is your {X} again, {T!},\" said {S!}.",
    "#gladlend returned T X, own S X, +gladlend S X G T",
    "Because {T} had brought back the {X}, {S} was {G}.",
    "\"I knew you would bring back the {X},\" {S} said to {t}.",
    "To see the {X} again made {s} {G}.",
    "#treasure new X, !own * X, +own S X, +found S X P",
    "{P}, {S} found a {X+}.",
    "{I} {S} found a {X+} {P}.",
    "{S} dug a deep hole {P} and found a {X+}.",
    "{S} saw something {A} {P}: it was a {X+}.",
    "{S} opened an old chest {P}, and inside was a {X+}.",
    "#map +map S P",
    "An old map led {s} to the {Pn}.",
    "{S} followed the footsteps to the {Pn}.",
    "{S} had heard of a treasure near the {Pn}.",
    "#whose own S X",
    "\"Whose {X!} is this?\" asked {S!}.",
    "{S} wondered who had left the {X} there.",
    "About the {X}, {S} asked everybody, but nobody missed it.",
    "#seed +seed S L P",
    "{S} planted a {L} {P}.",
    "{I} {S} dug a small hole {P} and planted a {L}.",
    "#water seed S L",
    "Every day {S} watered the {L}.",
    "Rain and sun came, and {S} waited for the {L}.",
    "For a long time there was nothing to see of the {L}.",
    "Each morning {S} talked to the {L}.",
    "#helpwater seed T L",
    "The weeds around the {L} of {T!} were pulled out by {s}.",
    "When the sun was too hot, the {L} of {T!} got some shade from {s}.",
    "The hungry snails were chased away from the {L} of {T!} by {s}.",
    "#grow seed S L, -seed S L, +grew S L, +seedhist S L",
    "{I} the {L} was bigger than a house, and {S} was {G}.",
    "Then the {L} grew and grew, and {S} was {G}.",
    "At last the {L} was tall and strong, and {S} was {G} about it.",
    "#stuck +stuck S P, +stuckhist S P",
    "{I} {S} fell into a hole {P} and could not get out.",
    "{I} {S} was stuck {P} and could not move.",
    "{I} {S} got lost {P} and could not find the way home.",
    "#callhelp stuck S",
    "\"Help! Help!\" cried {S!}.",
    "\"Can anybody hear me?\" called {S!}.",
    "There was only one thing to do: {S} called for help.",
    "#rescue stuck T P, -stuck T P, +rescued S T",
    "With a long rope, {T} was saved by {s}.",
    "The voice of {T!} was heard by {s}, who came at once to help.",
    "\"Hold my hand, {T!},\" said {S!}, and pulled very hard.",
    "#gladrescue rescued T S, +gladrescue S G T",
    "\"You saved me, {T!},\" said {S!}.",
    "To be saved by {t} made {s} {G}.",
    "Safe again, {S} hugged {t}.",
    "#storm +storm S P",
    "{I} there was a storm while {S} was {P}.",
    "{I} dark clouds came, and {S} was still {P}.",
    "It began to rain very hard, and {S} stood {P} and got wet.",
    "#shelter storm T, +shelter S T",
    "\"Come in, {T!}, it is warm and dry here,\" said {S!}.",
    "A door was opened for {t}, and {S} made some hot tea.",
    "The rain could not reach {t} under the big leaf that {S} held.",
    "#gladshelter shelter T S, +gladshelter S G T",
    "Because {T} had helped in the storm, {S} was {G}.",
    "\"Thank you for the tea and the fire, {T!},\" said {S!}.",
    "By the fire {S} thanked {t} and waited until the rain stopped.",
    "#together",
    "{S!} and {T!} told each other jokes and giggled.",
    "{S!} and {T!} drank cocoa and ate chestnuts.",
    "{S!} and {T!} splashed about and got completely soaked.",
    "{S!} and {T!} made up a song with seven verses.",
    "Afterwards {S!} and {T!} lay in the grass and watched the clouds drift by.",
    "{S!} and {T!} played until it was dark.",
    "{S!} and {T!} laughed and danced.",
    "{S!} and {T!} walked home hand in hand.",
    "{S!} and {T!} sat under a tree and talked.",
    "That evening {S!} and {T!} had supper together.",
    "#moral",
    "Since then {S!} and {T!} have visited each other every weekend.",
    "{S} knew that a true friend is worth more than silver.",
    "No quarrel ever came between {S!} and {T!}.",
    "{S!} and {T!} promised to stick together always.",
    "From that day on, {S!} and {T!} were best friends.",
    "{S!} and {T!} were friends for ever.",
    "After that, {S!} and {T!} did everything together.",
    "{S} learned that it is good to have a friend like {t}.",
    "And {S} never forgot how kind {T} was.",
    "#end",
    "The end.",
    "And that is the end of the story.",
    "And they lived happily ever after.",
    "This is the end of the story.",
    "#iskind +said S",
    "{S!} was a {Sk}.",
    "{S!} was a {St} {Sk}.",
    "#thingat new X, !own * X, +at X P",
    "A {X+} lay {P}.",
    "There was a {X+} {P}.",
    "#gofact +went S P",
    "{S} went to the {Pn}.",
    "#hadfact new X, !own * X, +own S X",
    "{S} had a {X+}.",
    "{S} got a {X+}.",
    "#takefact at X P, !own * X, +own S X, +found S X P",
    "{S} found the {X} {P}."
};

/* ------------------------------------------------------------------------------------------------ plots */

/* A plot is what it is about (for requests) and its steps, in order, separated by ";".
   A step is an event and what its roles stand for: A, B, C characters, X, Y objects, P, Q, V places. "|": either of them;
   "?": only sometimes, and only if the rules allow it. "h": X must be able to break. */
static const struct { const char *about, *flags, *steps; } world_plots[] = {
    {"a {Sk} who lost a {X!}", "",
     "open A|openhome AV|openown AX;?like A;own AX;?play AX;meet AB;?colour AX;?go AQ;lose AX;sadlost AX;?search AX;"
     "asklost AB X;?offer BA X;find BXP;giveback BA X;gladback AB X;?thank AB;keep AX;?moral AB;end"},
    {"a {Sk} and the wind", "",
     "open A|openhome AV;meet AB;?like B;own AX;?play AX;?scene;gotwo ABQ;blow AX;sadlost AX;?offer BA X;?search AX;"
     "find BXP;giveback BA X;gladback AB X|thank AB;?colour AX;?together AB;?moral AB;end"},
    {"a {Sk} who found a lost {X!}", "",
     "open A|openhome AV;own AX;?like A;?play AX;lose AX;?search AX;sadlost AX;meetnew AB;asklost AB X;?offer BA X;?go BQ;"
     "find BXP;giveback BA X;?thank AB;gladback AB X;?keep AX;moral AB|together AB;end"},
    {"a {Sk} who looked for a {X!}", "",
     "openown AX|open A;own AX;?play AX;?colour AX;go AQ;?scene;lose AX;sadlost AX;search AX;?search AX;find AXP;gladself AX;"
     "keep AX;?keep AX;end"},
    {"a present", "",
     "open A|openhome AV;meet AB;?like B;own AX;?play AX;?scene;birthday B;?sadbirthday B;give AB X;gladgift BA X;"
     "?thank BA;?colour BX;?keep BX;moral AB|together AB;end"},
    {"a {Sk} who got a {X!} from a friend", "",
     "open A;?live AV;?like A;want AX;?wantsad AX;meet AB;tellwish AB X;make BA X;?wrap BA X;give BA X;gladgift AB X;"
     "thank AB;?colour AX;?keep AX;moral AB|together AB;end"},
    {"a trade", "",
     "open A|openhome AV|openown AX;own AX;?play AX;meet AB;own BY;?play BY;?colour AX;notwant AB XY;asktrade AB XY;trade AB XY;"
     "bothglad AB YX;?keep BX;?keep AY;?moral AB;end"},
    {"a {Sk} who wanted a {X!}", "",
     "open A|openhome AV;?like A;want AX;?scene;?wantsad AX;nomoney AX;work AP;?want AX;buy AX;gladown AX;?play AX;"
     "?meet AB;?give AB X;?gladgift BA X;?keep AX;end"},
    {"a wish", "",
     "open A|openhome AV;?like A;want AX;?wantsad AX;nomoney AX;?meet AB;?tellwish AB X;?scene;fairy AX;gladown AX;?play AX;"
     "?colour AX;keep AX;end"},
    {"a {Sk} with a broken {X!}", "h",
     "open A|openhome AV|openown AX;own AX;?like A;?play AX;meet AB;?colour AX;break AX;sadbroke AX;mend BX;gladmend AB X;"
     "?play AX;?keep AX;moral AB|together AB;end"},
    {"a {Sk} who was sorry", "h",
     "open A;meet AB;own BX;?play BX;?colour BX;breakother AB X;sadbroke BX;sorry AB X;?forgive BA X;mend AX;gladmend BA X;"
     "?keep BX;?together AB;moral AB;end"},
    {"a {Sk} who was afraid of {R}", "",
     "open A|openhome AV;?like A;fear A;meet AB;?scene;fearshow AB;comfort BA;gladcomfort AB;brave A;?hasfood A;"
     "?together AB;moral AB;end"},
    {"a {Sk} who was afraid of {R}", "",
     "open A;own AX;fear A;?play AX;meet AB;fearshow AB;comfort BA;brave A;gladcomfort AB;give AB X;gladgift BA X;"
     "?colour BX;?moral AB;end"},
    {"a race", "",
     "open A|openhome AV;?like A;meet AB;?scene;race AB P;run AB;?run AB;win AB;?gladwin A;?sadrace BA;prize AX;"
     "?colour AX;?keep AX;moral AB|together AB;end"},
    {"a {Sk} who ran a race", "",
     "open A;?like A;meetnew AB;race AB P;run AB;?run AB;winb BA;?sadrace AB;prize BX;?gladwin B;give BA X;gladgift AB X;"
     "?keep AX;moral AB;end"},
    {"a birthday", "",
     "open A|openhome AV;?like A;meet AB;birthday A;?sadbirthday A;bring BA X;?wrap BA X;surprise BA;give BA X;"
     "gladgift AB X;?colour AX;?together AB;?keep AX;end"},
    {"a {Sk} who shared a {D}", "",
     "open A|openhome AV;?like A;hasfood A;?scene;meetnew AB;?live BP;hungry B;share AB;gladfood BA;?together AB;"
     "repay BA X;give BA X;gladgift AB X;moral AB;end"},
    {"a {Sk} and a {D}", "",
     "open A;meet AB;?gotwo ABP;own AX;hasfood B;hungry A;share BA;gladfood AB;give AB X;?gladgift BA X;?keep BX;"
     "moral AB;end"},
    {"a {Sk} who built a {B}", "",
     "open A|openhome AV;?like A;meet AB;?own BX;?scene;plan AB;gather AB;?fall AB;build AB;usebuilt AB;?give BA X;"
     "?gladgift AB X;moral AB|together AB;end"},
    {"a {Sk} who could not {H}", "",
     "open A|openhome AV;?like A;cannot A;sadcannot A;meet AB|meetnew AB;teach BA;tryagain A;learn AB;gladlearn A;?own AX;"
     "?give AB X;?gladgift BA X;moral AB|together AB;end"},
    {"a sick {Sk}", "",
     "open A|openhome AV;?like A;meet AB;sick A;?visit BA;bringfood BA;?own BX;?give BA X;?gladgift AB X;well A;gladcare AB;"
     "moral AB|together AB;end"},
    {"hide and seek", "",
     "open A|openhome AV;meet AB;?like B;?own AX;hideplan AB;hide BP;seek AB;?seek AB;foundhid AB P;?together AB;?give AB X;"
     "?gladgift BA X;?keep BX;moral AB;end"},
    {"a {Sk} who borrowed a {X!}", "",
     "open A|openhome AV;?like A;meet AB;own BX;?play BX;askborrow AB X;lend BA X;?colour AX;?go AP;return AB X;"
     "gladlend BA X;?keep BX;moral AB|together AB;end"},
    {"a treasure", "",
     "open A|openhome AV;?like A;?map AP;treasure AXP;?whose AX;?colour AX;meet AB|meetnew AB;give AB X;gladgift BA X;"
     "?thank BA;?keep BX;moral AB;end"},
    {"a {Sk} who found a {X!}", "",
     "open A;?live AV;?scene;treasure AXP;whose AX;gladown AX;meetnew AB;own BY;?notwant BA YX;asktrade BA YX;trade BA YX;"
     "bothglad BA XY;?moral AB;end"},
    {"a {Sk} who planted a {L}", "",
     "open A|openhome AV;?like A;seed AP;water A;meet AB;?helpwater BA;?water A;?own BX;grow A;?give BA X;?gladgift AB X;"
     "moral AB|together AB;end"},
    {"a {Sk} who needed help", "",
     "open A|openhome AV;?like A;own AX;?play AX;?scene;stuck AP;callhelp A;meetnew AB;rescue BA;gladrescue AB;give AB X;"
     "?gladgift BA X;?keep BX;moral AB;end"},
    {"a storm", "",
     "open A|openhome AV;?like A;own AX;storm AP;meetnew AB;shelter BA;gladshelter AB;?hasfood B;?hungry A;?share BA;"
     "give AB X;gladgift BA X;moral AB;end"},
    {"three friends", "",
     "open A;own AX;meet AB;?like B;lose AX;sadlost AX;meetnew AC;asklost AC X;?own BY;find CXP;giveback CA X;gladback AC X;"
     "?thank AC;?give BC Y;?colour AX;end"},
    {"a {Sk} who gave away a {X!}", "",
     "open A|openown AX;own AX;?play AX;meet AB;give AB X;gladgift BA X;?colour BX;meetnew BC;own CY;asktrade BC XY;"
     "trade BC XY;bothglad BC YX;end"}
};

/* -------------------------------------------------------------------------------------------- questions */

/* fact: what must have become true ("@": must still be true at the end). key: the role that is asked for; for it there
   must be one answer only. */
static const struct { const char *fact, *key, *question, *answer; } world_questions[] = {
    {"colour X C", "C", "What colour was the {X!}?", "The {X!} was {C}."},
    {"colour X C", "C", "Which colour did the {X!} have?", "The {X!} was {C}."},
    {"colour X C", "C", "What was the colour of the {X!}?", "The {X!} was {C}."},
    {"colour X C", "X", "What was {C}?", "The {X!} was {C}."},
    {"@own S X", "S", "Who has the {X!} now?", "{S!} has the {X!} now."},
    {"@own S X", "S", "Who had the {X!} at the end?", "{S!} had the {X!}."},
    {"@own S X", "X", "What did {S!} have at the end?", "{S!} had the {X!}."},
    {"found S X P", "S", "Who found the {X!}?", "{S!} found the {X!}."},
    {"found S X P", "P", "Where did {S!} find the {X!}?", "{S!} found the {X!} {P}."},
    {"found S X P", "P", "Where was the {X!}?", "The {X!} was {P}."},
    {"found S X P", "X", "What did {S!} find?", "{S!} found the {X!}."},
    {"losthist S X", "S", "Who lost the {X!}?", "{S!} lost the {X!}."},
    {"losthist S X", "X", "What did {S!} lose?", "{S!} lost the {X!}."},
    {"kind S K", "K", "What kind of animal was {S!}?", "{S!} was a {K}."},
    {"kind S K", "K", "What was {S!}?", "{S!} was a {K}."},
    {"kind S K", "S", "What was the name of the {K}?", "The {K} was named {S!}."},
    {"kind S K", "S", "Who was the {K}?", "{S!} was the {K}."},
    {"sadlost S X F", "X", "Why was {S!} {F}?", "{S!} was {F} because {S~} had lost the {X!}."},
    {"sadlost S X F", "F", "How did {S!} feel without the {X!}?", "{S!} felt {F}."},
    {"sadbroke S X F", "X", "Why was {S!} {F}?", "{S!} was {F} because the {X!} was broken."},
    {"sadcannot S H F", "H", "Why was {S!} {F}?", "{S!} was {F} because {S~} could not {H}."},
    {"sadwant S X F", "X", "Why was {S!} {F}?", "{S!} was {F} because {S~} did not have a {X!}."},
    {"sadrace S F", "F", "How did {S!} feel after the race?", "{S!} felt {F}."},
    {"gladback S X G T", "T", "Why was {S!} {G}?", "{S!} was {G} because {T!} had found the {X!}."},
    {"gladgift S X G T", "T", "Why was {S!} {G}?", "{S!} was {G} because {T!} had given {s~} the {X!}."},
    {"gladmend S X G T", "T", "Why was {S!} {G}?", "{S!} was {G} because {T!} had mended the {X!}."},
    {"gladfood S D G T", "T", "Why was {S!} {G}?", "{S!} was {G} because {T!} had shared the {D}."},
    {"gladlearn S H G", "H", "Why was {S!} {G}?", "{S!} was {G} because {S~} could {H}."},
    {"gladback S X G T", "G", "How did {S!} feel at the end?", "{S!} felt {G}."},
    {"gladgift S X G T", "G", "How did {S!} feel about the {X!}?", "{S!} felt {G}."},
    {"want S X", "X", "What did {S!} want?", "{S!} wanted a {X!}."},
    {"want S X", "S", "Who wanted a {X!}?", "{S!} wanted a {X!}."},
    {"friend S T", "T", "Who was {S!}'s friend?", "{T!} was {S!}'s friend."},
    {"friend S T", "T", "What was the name of {S!}'s friend?", "{S!}'s friend was named {T!}."},
    {"met S T", "T", "Who did {S!} meet?", "{S!} met {T!}."},
    {"gave S T X", "S", "Who gave the {X!} to {T!}?", "{S!} gave the {X!} to {T!}."},
    {"gave S T X", "X", "What did {S!} give to {T!}?", "{S!} gave the {X!} to {T!}."},
    {"gave S T X", "T", "Who got the {X!} from {S!}?", "{T!} got the {X!} from {S!}."},
    {"home S P", "P", "Where did {S!} live?", "{S!} lived {P}."},
    {"home S P", "S", "Who lived {P}?", "{S!} lived {P}."},
    {"like S J", "J", "What did {S!} like?", "{S!} liked {J}."},
    {"like S J", "S", "Who liked {J}?", "{S!} liked {J}."},
    {"mended S X", "S", "Who mended the {X!}?", "{S!} mended the {X!}."},
    {"brokehist S X", "X", "What was broken?", "The {X!} was broken."},
    {"brokeby S X", "S", "Who broke the {X!}?", "{S!} broke the {X!}."},
    {"made S X", "S", "Who made the {X!}?", "{S!} made the {X!}."},
    {"fearhist S R", "R", "What was {S!} afraid of?", "{S!} was afraid of {R}."},
    {"fearhist S R", "S", "Who was afraid of {R}?", "{S!} was afraid of {R}."},
    {"won S", "S", "Who won the race?", "{S!} won the race."},
    {"prize S X", "X", "What was the prize?", "The prize was a {X!}."},
    {"race S T P", "P", "Where did they run to?", "They ran to the {Pn}."},
    {"birthday S", "S", "Whose birthday was it?", "It was {S!}'s birthday."},
    {"shared S T D", "D", "What did {S!} share?", "{S!} shared a {D}."},
    {"shared S T D", "S", "Who shared the {D}?", "{S!} shared the {D}."},
    {"shared S T D", "T", "Who was hungry?", "{T!} was hungry."},
    {"built S T B", "B", "What did they build?", "They built a {B}."},
    {"material B M", "M", "What was the {B} made of?", "The {B} was made of {M}."},
    {"cannothist S H", "H", "What could {S!} not do at first?", "{S!} could not {H}."},
    {"taught S T H", "S", "Who taught {T!} to {H}?", "{S!} taught {T!} to {H}."},
    {"sickhist S", "S", "Who was sick?", "{S!} was sick."},
    {"broughtfood S T D", "D", "What did {S!} bring?", "{S!} brought a {D}."},
    {"foundhid S T P", "P", "Where did {T!} hide?", "{T!} hid {P}."},
    {"lent S T X", "X", "What did {T!} borrow?", "{T!} borrowed the {X!}."},
    {"lent S T X", "T", "Who borrowed the {X!}?", "{T!} borrowed the {X!}."},
    {"seed S L P", "L", "What did {S!} plant?", "{S!} planted a {L}."},
    {"seed S L P", "P", "Where did {S!} plant the {L}?", "{S!} planted the {L} {P}."},
    {"stuckhist S P", "P", "Where did {S!} need help?", "{S!} needed help {P}."},
    {"rescued S T", "S", "Who helped {T!}?", "{S!} helped {T!}."},
    {"at X P", "P", "Where was the {X!}?", "The {X!} was {P}."},
    {"at X P", "X", "What was {P}?", "The {X!} was {P}."},
    {"went S P", "P", "Where did {S!} go?", "{S!} went to the {Pn}."},
    {"went S P", "S", "Who went to the {Pn}?", "{S!} went to the {Pn}."}
};

/* Questions whose answer is not in the story: X is an object that it does not mention, S a name that it does not. */
static const char *const world_unknowns[] = {
    "What colour was the {X!}?", "Who had the {X!}?", "Where was the {X!}?", "Who found the {X!}?", "Where did {S!} live?",
    "What did {S!} like?", "What kind of animal was {S!}?"
};
static const char world_unknown_answer[] = "I don't know. The story does not say.";

static const char *const world_requests[] = {
    "Tell me a story.", "Please tell me a story.", "Can you tell me a story?", "I want to hear a story.",
    "Tell me a story, please.", "Once more, a story please!"
};
/* {about}: the plot. */
static const char *const world_requests_about[] = {
    "Tell me a story about ", "Please tell me a story about ", "A story about ", "Tell me about ", "I want a story about ",
    "Can you tell me a story about ", "Write a story about ", "Do you know a story about "
};
static const char *const world_topics[] = {
    "a {Sk}", "a {Sk} named {S!}", "{S!}", "{S!} the {Sk}", "a {X!}", "a {X+}", "a {St} {Sk}", "a {Sk} and a {Tk}",
    "{S!} and {T!}"
};
static const char *const world_small_talk[][2] = {
    {"Hello!", "Hello! Do you want to hear a story?"}, {"Hi!", "Hello! Do you want to hear a story?"},
    {"Good morning!", "Good morning! Do you want to hear a story?"}, {"How are you?", "I am fine. Do you want to hear a story?"},
    {"Who are you?", "I am a small language model. I tell stories."}, {"What is your name?", "I have no name. I tell stories."},
    {"What can you do?", "I can tell stories and answer questions about them."},
    {"Thank you!", "You are welcome!"}, {"Thanks, that was nice.", "You are welcome!"}, {"I liked the story.", "I am glad!"},
    {"Goodbye!", "Goodbye!"}, {"Good night!", "Good night! Sleep well."}
};
enum { WORLD_GREETINGS = 7 };                            /* that many of world_small_talk come first, the others last */

/* ----------------------------------------------------------------------------------------------- tables */

enum {
    WORLD_MAX_TEXT = 4096,           /* bytes of a story or document, more than any has */
    WORLD_MAX_WORDS = 3072, WORLD_HASH = 8192, WORLD_MAX_ENTRIES = 256, WORLD_MAX_LINES = 900, WORLD_MAX_TOKENS = 16384,
    WORLD_MAX_EVENTS = 160, WORLD_MAX_RULES = 800, WORLD_MAX_PREDS = 160, WORLD_MAX_STEPS = 24, WORLD_MAX_PIECES = 2048,
    WORLD_CAST = 4, WORLD_CHARS = 8, WORLD_OBJECTS = 12, WORLD_FACTS = 128
};

/* A word, a punctuation mark or a slot. */
typedef struct world_token {
    int16_t word;                    /* its number; -1: not a word of this world; -2: "a" where "an" belongs or reverse */
    int8_t cap, space;               /* begins with a capital; a blank stands before it */
    int8_t role, form;               /* role -1: no slot */
    int32_t at, size;                /* bytes in the text it came from */
} world_token;

enum {                               /* forms of slots */
    WF_PLAIN, WF_OBJECT, WF_NAME, WF_HE, WF_HIM, WF_OWNER, WF_HIS, WF_KIND, WF_TRAIT,      /* characters */
    WF_FULL, WF_NOUN, WF_COLOUR                                                          /* objects; WF_NOUN: places, too */
};

typedef struct world_line { int event, first, n; uint32_t roles; } world_line;      /* first: in tokens */
typedef struct world_rule { char what; int8_t pred_n; int16_t pred; int8_t role[4]; } world_rule; /* what: n ? ! + - */
typedef struct world_event { const char *name; int name_size, first, n, first_rule, n_rules; uint32_t fresh; } world_event;
typedef struct world_entry {
    int16_t word[6];
    int8_t cap[6], n, human, hard;
    int16_t prep, next;              /* next entry of the class with the same first word, or -1 */
} world_entry;
typedef struct world_step { int optional, n; struct { int event; char cast[6]; } either[3]; } world_step;
typedef struct world_question { int row, now; world_rule fact; int key; world_line question, answer; } world_question;

/* All tables in the form in which they are used. */
typedef struct world {
    char text[WORLD_MAX_WORDS * 12];
    int text_size, n_words, word_at[WORLD_MAX_WORDS], listed[WORLD_MAX_WORDS];
    int16_t hash[WORLD_HASH];
    world_entry entry[WC_N][WORLD_MAX_ENTRIES];
    int n_entries[WC_N], n_hard;
    int16_t first[WC_N][WORLD_MAX_WORDS];
    world_token token[WORLD_MAX_TOKENS];
    int n_tokens;
    world_line line[WORLD_MAX_LINES];
    int n_lines;
    world_event event[WORLD_MAX_EVENTS];
    int n_events;
    world_rule rule[WORLD_MAX_RULES];
    int n_rules;
    struct { const char *name; int size; } pred[WORLD_MAX_PREDS];
    int n_preds, pred_kind, pred_colour;
    world_step step[WORLD_COUNT(world_plots)][WORLD_MAX_STEPS];
    int n_steps[WORLD_COUNT(world_plots)];
    world_line about[WORLD_COUNT(world_plots)], unknown[WORLD_COUNT(world_unknowns)], topic[WORLD_COUNT(world_topics)];
    world_question question[WORLD_COUNT(world_questions)];
    int w_a, w_the, w_he, w_she, w_him, w_her, w_his, w_s;
    const char *problem;             /* a mistake in the tables above, for who edits them; NULL: none */
} world;

WORLD_FN void world_problem(world *w, const char *text) { if (!w->problem) w->problem = text; }

/* The number of a word [n bytes], in lower case; -1 if there is no such word and add is 0. */
WORLD_FN int world_word(const world *w, const char *text, int n, world *add)
{
    char low[32];
    uint32_t h = 2166136261u;
    int i;
    if (n <= 0 || n >= (int)sizeof low) return -1;
    for (i = 0; i < n; i++) {
        low[i] = text[i];
        if (text[i] >= 'A' && text[i] <= 'Z') low[i] = (char)(text[i] - 'A' + 'a');
        h = (h ^ (unsigned char)low[i]) * 16777619u;
    }
    for (h %= WORLD_HASH; w->hash[h] >= 0; h = (h + 1) % WORLD_HASH) {
        const char *have = w->text + w->word_at[w->hash[h]];
        if (strncmp(have, low, (size_t)n) == 0 && !have[n]) return w->hash[h];
    }
    if (!add) return -1;
    if (add->n_words == WORLD_MAX_WORDS || add->text_size + n + 1 > (int)sizeof add->text) {
        world_problem(add, "too many words");
        return 0;
    }
    memcpy(add->text + add->text_size, low, (size_t)n);
    add->text[add->text_size + n] = 0;
    add->word_at[add->n_words] = add->text_size;
    add->text_size += n + 1;
    add->hash[h] = (int16_t)add->n_words;
    return add->n_words++;
}

WORLD_FN int world_is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* The word or mark at text [end]: an apostrophe belongs to a word ("don't"), but 's is a word of its own. Returns its
   bytes. Words with capitals inside are not words of this world. */
WORLD_FN int world_next_token(const world *w, const char *text, const char *end, world_token *t, world *add)
{
    int n = 0, i, odd = 0;
    memset(t, 0, sizeof *t);
    t->role = -1;
    if (world_is_letter(*text)) {
        while (text + n < end && (world_is_letter(text[n]) || (text[n] == '\'' && text + n + 1 < end &&
               world_is_letter(text[n + 1]) && !(text[n + 1] == 's' && (text + n + 2 == end || !world_is_letter(text[n + 2]))))))
            n++;
        for (i = 1; i < n; i++) odd |= text[i] >= 'A' && text[i] <= 'Z';
    } else if (*text == '\'' && text + 1 < end && text[1] == 's') {
        n = 2;
    } else {
        n = 1;
    }
    t->cap = (int8_t)(*text >= 'A' && *text <= 'Z');
    t->word = (int16_t)(odd ? -1 : world_word(w, text, n, add));
    t->size = n;
    return n;
}

/* ---- slots and lines */

WORLD_FN int world_role(char letter)
{
    const char *at = strchr(world_role_letters, letter);
    return letter && at ? (int)(at - world_role_letters) : -1;
}

/* Reads what stands between { and }. */
WORLD_FN void world_read_slot(world *w, const char *s, int n, world_token *t)
{
    const int object = *s == 's' || *s == 't' || *s == 'u';
    const char *rest = s + 1;
    const int left = n - 1;
    t->role = (int8_t)world_role(object ? (char)(*s - 'a' + 'A') : *s);
    if (t->role < 0) world_problem(w, s);
    if (t->role <= WR_U) {
        if (!left) t->form = object ? WF_OBJECT : WF_PLAIN;
        else if (*rest == '!') t->form = WF_NAME;
        else if (*rest == '~') t->form = object ? WF_HIM : WF_HE;
        else if (*rest == 'k') t->form = WF_KIND;
        else if (*rest == 't') t->form = WF_TRAIT;
        else if (*rest == '\'') t->form = rest[left - 1] == '~' ? WF_HIS : WF_OWNER;
        else world_problem(w, s);
    } else if (left) {
        if (*rest == '+') t->form = WF_FULL;
        else if (*rest == '!' || *rest == 'n') t->form = WF_NOUN;
        else if (*rest == 'c') t->form = WF_COLOUR;
        else world_problem(w, s);
    }
}

/* Cuts a line of the tables into tokens. */
WORLD_FN world_line world_read_line(world *w, const char *text, int event)
{
    const char *const end = text + strlen(text);
    world_line line = {event, w->n_tokens, 0, 0};
    int start = 1, quotes = 0;                           /* start: a sentence begins here, so slots are capital */
    while (text < end) {
        world_token t;
        int space = 0, n;
        while (*text == ' ') text++, space = 1;
        if (*text == '{') {
            n = (int)strcspn(text, "}") + 1;
            memset(&t, 0, sizeof t);
            world_read_slot(w, text + 1, n - 2, &t);
            if (t.role >= 0) line.roles |= 1u << t.role;
            t.cap = (int8_t)start;
        } else {
            n = world_next_token(w, text, end, &t, w);
            w->listed[t.word] = 1;
            if (n == 2 && (*text | 32) == 'a' && text[1] == 'n') t.word = (int16_t)w->w_a;      /* written by rule */
        }
        start = (*text == '.' || *text == '?' || *text == '!') || (*text == '"' && quotes++ % 2 == 0);
        t.space = (int8_t)space;
        text += n;
        if (w->n_tokens == WORLD_MAX_TOKENS) {
            world_problem(w, "too many tokens");
            break;
        }
        w->token[w->n_tokens++] = t;
        line.n++;
    }
    return line;
}

/* ---- classes */

WORLD_FN void world_read_entry(world *w, int class_, const char *text, int n, int hard)
{
    world_entry *e = &w->entry[class_][w->n_entries[class_]];
    const char *const end = text + n;
    int16_t *chain;
    if (w->n_entries[class_] == WORLD_MAX_ENTRIES) {
        world_problem(w, "too many entries");
        return;
    }
    memset(e, 0, sizeof *e);
    e->hard = (int8_t)hard;
    e->prep = e->next = -1;
    while (text < end && *text != '/') {
        world_token t;
        if (*text == ' ') text++;
        text += world_next_token(w, text, end, &t, w);
        w->listed[t.word] = 1;
        if (class_ == WC_PLACE && e->prep < 0) e->prep = t.word;
        else if (e->n < 6) e->word[e->n] = t.word, e->cap[e->n++] = t.cap;
        else world_problem(w, "an entry of more than 6 words");
    }
    for (; text < end; text++)
        if (*text == 'h') e->human = 1;
    for (chain = &w->first[class_][e->word[0]]; *chain >= 0; chain = &w->entry[class_][*chain].next) continue;
    *chain = (int16_t)w->n_entries[class_]++;
}

WORLD_FN void world_read_classes(world *w)
{
    int c;
    for (c = 0; c < WC_N; c++) {
        const char *p = world_classes[c];
        int hard = 1;
        for (;;) {
            const int n = (int)strcspn(p, ",;");
            world_read_entry(w, c, p, n, hard);
            if (p[n] == ';') {
                hard = 0;
                w->n_hard = w->n_entries[c];
            }
            if (!p[n]) break;
            p += n + 1;
        }
    }
}

/* ---- rules, events, plots, questions */

WORLD_FN int world_pred(world *w, const char *name, int n)
{
    int i;
    for (i = 0; i < w->n_preds; i++)
        if (w->pred[i].size == n && memcmp(w->pred[i].name, name, (size_t)n) == 0) return i;
    if (w->n_preds == WORLD_MAX_PREDS) {
        world_problem(w, "too many predicates");
        return 0;
    }
    w->pred[i].name = name;
    w->pred[i].size = n;
    return w->n_preds++;
}

/* One rule from text [n], e.g. "+own S X". */
WORLD_FN world_rule world_read_rule(world *w, const char *text, int n)
{
    world_rule r;
    int i, k = 0;
    memset(&r, 0, sizeof r);
    r.what = '?';
    if (*text == '+' || *text == '-' || *text == '!') r.what = *text++, n--;
    for (i = 0; i < n && text[i] != ' ';) i++;
    if (r.what == '?' && i == 3 && memcmp(text, "new", 3) == 0) r.what = 'n';
    else r.pred = (int16_t)world_pred(w, text, i);
    for (k = 0; k < 4; k++) r.role[k] = -1;
    for (k = 0; i < n && k < 4; i++) {
        if (text[i] == ' ') continue;
        r.role[k++] = (int8_t)(text[i] == '*' ? -1 : world_role(text[i]));
        if (text[i] != '*' && world_role(text[i]) < 0) world_problem(w, text);
    }
    r.pred_n = (int8_t)k;
    return r;
}

WORLD_FN void world_read_event(world *w, const char *text)
{
    world_event *e = &w->event[w->n_events];
    if (w->n_events == WORLD_MAX_EVENTS) {
        world_problem(w, "too many events");
        return;
    }
    w->n_events++;
    e->name = ++text;
    e->name_size = (int)strcspn(text, " ");
    e->first = w->n_lines;
    e->first_rule = w->n_rules;
    text += e->name_size;
    while (*text) {
        int n;
        text += strspn(text, ", ");
        n = (int)strcspn(text, ",");
        if (w->n_rules == WORLD_MAX_RULES) world_problem(w, "too many rules");
        else w->rule[w->n_rules++] = world_read_rule(w, text, n);
        if (w->rule[w->n_rules - 1].what == 'n') e->fresh |= 1u << w->rule[w->n_rules - 1].role[0];
        text += n;
    }
    e->n_rules = w->n_rules - e->first_rule;
}

WORLD_FN int world_find_event(world *w, const char *name, int n)
{
    int i;
    for (i = 0; i < w->n_events; i++)
        if (w->event[i].name_size == n && memcmp(w->event[i].name, name, (size_t)n) == 0) return i;
    world_problem(w, name);
    return 0;
}

/* "?find BXP|lose AX;": returns where the next step begins. */
WORLD_FN const char *world_read_step(world *w, const char *text, world_step *step)
{
    memset(step, 0, sizeof *step);
    if (*text == '?') step->optional = 1, text++;
    while (*text && *text != ';') {
        const int n = (int)strcspn(text, " |;");
        int k = 0;
        if (step->n == 3) world_problem(w, text);
        else step->either[step->n].event = world_find_event(w, text, n);
        for (text += n; *text && *text != '|' && *text != ';'; text++)
            if (*text != ' ' && k < 5 && step->n < 3) step->either[step->n].cast[k++] = *text;
        if (*text == '|') text++;
        if (step->n < 3) step->n++;
    }
    return *text ? text + 1 : text;
}

WORLD_FN void world_read_plots(world *w)
{
    int i;
    for (i = 0; i < WORLD_COUNT(world_plots); i++) {
        const char *p = world_plots[i].steps;
        w->about[i] = world_read_line(w, world_plots[i].about, -1);
        while (*p) {
            world_step spare;
            const int full = w->n_steps[i] == WORLD_MAX_STEPS;
            if (full) world_problem(w, p);
            p = world_read_step(w, p, full ? &spare : &w->step[i][w->n_steps[i]++]);
        }
    }
}

WORLD_FN void world_read_questions(world *w)
{
    int i;
    for (i = 0; i < WORLD_COUNT(world_questions); i++) {
        world_question *q = &w->question[i];
        const char *fact = world_questions[i].fact;
        q->now = *fact == '@';
        q->fact = world_read_rule(w, fact + q->now, (int)strlen(fact + q->now));
        q->key = world_role(world_questions[i].key[0]);
        q->question = world_read_line(w, world_questions[i].question, -1);
        q->answer = world_read_line(w, world_questions[i].answer, -1);
    }
    for (i = 0; i < WORLD_COUNT(world_unknowns); i++) w->unknown[i] = world_read_line(w, world_unknowns[i], -1);
    for (i = 0; i < WORLD_COUNT(world_topics); i++) w->topic[i] = world_read_line(w, world_topics[i], -1);
}

/* Words of texts that are used as they are. */
WORLD_FN void world_list_words(world *w, const char *text)
{
    const char *const end = text + strlen(text);
    while (text < end) {
        world_token t;
        text += world_next_token(w, text, end, &t, w);
        if (t.word >= 0) w->listed[t.word] = 1;
    }
}

/* Fills *w from the tables. w->problem is NULL unless somebody broke them. */
WORLD_FN void world_init(world *w)
{
    static const char *const pronouns[] = {"a", "the", "he", "she", "him", "her", "his", "'s"};
    int *const out[] = {&w->w_a, &w->w_the, &w->w_he, &w->w_she, &w->w_him, &w->w_her, &w->w_his, &w->w_s};
    int i;
    memset(w, 0, sizeof *w);
    memset(w->hash, 0xff, sizeof w->hash);
    memset(w->first, 0xff, sizeof w->first);
    for (i = 0; i < WORLD_COUNT(pronouns); i++) {
        *out[i] = world_word(w, pronouns[i], (int)strlen(pronouns[i]), w);
        w->listed[*out[i]] = 1;
    }
    world_read_classes(w);
    w->pred_kind = world_pred(w, "kind", 4);
    w->pred_colour = world_pred(w, "colour", 6);
    for (i = 0; i < WORLD_COUNT(world_sentences); i++) {
        if (*world_sentences[i] == '#') {
            world_read_event(w, world_sentences[i]);
        } else if (w->n_lines == WORLD_MAX_LINES) {
            world_problem(w, "too many lines");
        } else {
            w->line[w->n_lines++] = world_read_line(w, world_sentences[i], w->n_events - 1);
            w->event[w->n_events - 1].n++;
        }
    }
    world_read_plots(w);
    world_read_questions(w);
    world_list_words(w, "an");
    world_list_words(w, world_unknown_answer);
    for (i = 0; i < WORLD_COUNT(world_requests); i++) world_list_words(w, world_requests[i]);
    for (i = 0; i < WORLD_COUNT(world_requests_about); i++) world_list_words(w, world_requests_about[i]);
    for (i = 0; i < WORLD_COUNT(world_small_talk); i++) {
        world_list_words(w, world_small_talk[i][0]);
        world_list_words(w, world_small_talk[i][1]);
    }
}

/* ---------------------------------------------------------------------------------------------- reading */

/* What the slots of one sentence are filled with; -1: nothing. name[] counts girls, then boys. */
typedef struct world_bind {
    int v[WR_ROLES];                 /* characters: name; objects: noun; others: entry */
    int pronoun[3], kind[3], trait[3], colour[2];        /* pronoun: 0 she, 1 he */
    int who[3], what[2];             /* the numbers in the state, found by world_settle */
    uint32_t roles;
} world_bind;

WORLD_FN void world_unbind(world_bind *b)
{
    memset(b, 0xff, sizeof *b);
    b->roles = 0;
}

/* The longest entry of a class that stands at t [n tokens]; -1 if none. *size: its tokens. */
WORLD_FN int world_entry_at(const world *w, int class_, const world_token *t, int n, int cap, int *size)
{
    int best = -1, i;
    *size = 0;
    if (n < 1 || t->word < 0) return -1;
    for (i = w->first[class_][t->word]; i >= 0; i = w->entry[class_][i].next) {
        const world_entry *e = &w->entry[class_][i];
        int k;
        if (e->n > n || e->n <= *size) continue;
        for (k = 0; k < e->n; k++)
            if (t[k].word != e->word[k] || t[k].cap != (k == 0 && cap ? 1 : e->cap[k]) || (k && !t[k].space)) break;
        if (k == e->n) best = i, *size = e->n;
    }
    return best;
}

WORLD_FN int world_same(int *value, int found)
{
    if (*value >= 0 && *value != found) return 0;
    *value = found;
    return 1;
}

/* Reads a mention of a character; returns its tokens, 0 if it is none. */
WORLD_FN int world_match_character(const world *w, const world_token *slot, const world_token *t, int n, world_bind *b)
{
    const int r = slot->role, form = slot->form;
    const int owner = form == WF_OWNER, word = t->word;
    int size, e, boy = -1;
    if (n < 1 || word < 0) return 0;
    if (form == WF_KIND || form == WF_TRAIT) {
        e = world_entry_at(w, form == WF_KIND ? WC_KIND : WC_TRAIT, t, n, slot->cap, &size);
        return e >= 0 && world_same(form == WF_KIND ? &b->kind[r] : &b->trait[r], e) ? size : 0;
    }
    if (form == WF_PLAIN || form == WF_HE) boy = word == w->w_he ? 1 : word == w->w_she ? 0 : -1;
    if (form == WF_OBJECT || form == WF_HIM) boy = word == w->w_him ? 1 : word == w->w_her ? 0 : -1;
    if (form == WF_OWNER || form == WF_HIS) boy = word == w->w_his ? 1 : word == w->w_her ? 0 : -1;
    if (boy >= 0) return t->cap == slot->cap && world_same(&b->pronoun[r], boy);
    if (form == WF_HE || form == WF_HIM || form == WF_HIS) return 0;
    if (word == w->w_the && form != WF_NAME) {           /* "the fox" */
        if (t->cap != slot->cap) return 0;
        e = world_entry_at(w, WC_KIND, t + 1, n - 1, 0, &size);
        if (e < 0 || !world_same(&b->kind[r], e)) return 0;
        size++;
    } else {
        e = world_entry_at(w, WC_GIRL, t, n, 1, &size);
        if (e < 0 && (e = world_entry_at(w, WC_BOY, t, n, 1, &size)) >= 0) e += w->n_entries[WC_GIRL];
        if (e < 0 || !world_same(&b->v[r], e)) return 0;
    }
    if (!owner) return size;
    return n > size && t[size].word == w->w_s && !t[size].space ? size + 1 : 0;
}

WORLD_FN int world_match_object(const world *w, const world_token *slot, const world_token *t, int n, world_bind *b)
{
    const int k = slot->role - WR_X;
    int size, noun, colour = -1;
    if (slot->form != WF_NOUN) colour = world_entry_at(w, WC_COLOUR, t, n, slot->cap, &size);
    if (colour < 0 && (slot->form == WF_FULL || slot->form == WF_COLOUR)) return 0;
    if (colour >= 0 && !world_same(&b->colour[k], colour)) return 0;
    if (slot->form == WF_COLOUR) return 1;
    noun = world_entry_at(w, WC_OBJECT, t + (colour >= 0), n - (colour >= 0), slot->cap && colour < 0, &size);
    if (noun < 0 || !world_same(&b->v[slot->role], noun)) return 0;
    return size + (colour >= 0);
}

WORLD_FN int world_match_place(const world *w, const world_token *slot, const world_token *t, int n, world_bind *b)
{
    const int with = slot->form == WF_NOUN ? 0 : 2;      /* "by the" */
    int size, e;
    if (n <= with) return 0;
    e = world_entry_at(w, WC_PLACE, t + with, n - with, slot->cap && !with, &size);
    if (e < 0 || (with && (t[0].word != w->entry[WC_PLACE][e].prep || t[0].cap != slot->cap || t[1].word != w->w_the || t[1].cap)))
        return 0;
    return world_same(&b->v[slot->role], e) ? size + with : 0;
}

/* Classes that need not be the same each time that a sentence names them. */
WORLD_FN int world_is_free(int role)
{
    return role == WR_N || role == WR_V || role == WR_Z || role == WR_A || role == WR_I || role == WR_W;
}

/* Reads one line at t [n tokens]; returns the tokens that it takes, 0 if it does not fit. */
WORLD_FN int world_match(const world *w, const world_line *line, const world_token *t, int n, world_bind *b)
{
    int at = 0, i;
    if (line->n && w->token[line->first].role < 0 && w->token[line->first].word != t->word) return 0;
    world_unbind(b);
    b->roles = line->roles;
    for (i = 0; i < line->n; i++) {
        const world_token *want = &w->token[line->first + i];
        int size = 0;
        if (at >= n || (i && want->space != t[at].space)) return 0;
        if (want->role < 0) {
            size = want->word == t[at].word && want->cap == t[at].cap;
        } else if (want->role <= WR_U) {
            size = world_match_character(w, want, t + at, n - at, b);
        } else if (want->role <= WR_Y) {
            size = world_match_object(w, want, t + at, n - at, b);
        } else if (want->role <= WR_Q) {
            size = world_match_place(w, want, t + at, n - at, b);
        } else {
            const int e = world_entry_at(w, world_role_class[want->role], t + at, n - at, want->cap, &size);
            if (e < 0) return 0;
            if (world_is_free(want->role)) b->v[want->role] = e;
            else if (!world_same(&b->v[want->role], e)) return 0;
        }
        if (!size) return 0;
        at += size;
    }
    return at;
}

/* ------------------------------------------------------------------------------------------------ rules */

typedef struct world_fact { int16_t pred; int8_t alive, n; int16_t arg[4]; } world_fact;

/* What is known after some sentences. */
typedef struct world_state {
    int n_chars, name[WORLD_CHARS], kind[WORLD_CHARS], trait[WORLD_CHARS], stamp[WORLD_CHARS];
    int n_objects, noun[WORLD_OBJECTS], colour[WORLD_OBJECTS];
    int focus, now;                  /* who the last sentence was about; sentences so far */
    int strangers;                   /* 1: names need no introduction (facts that a user gives) */
    int n_facts;
    world_fact fact[WORLD_FACTS];
} world_state;

WORLD_FN void world_begin(world_state *s, int strangers)
{
    memset(s, 0, sizeof *s);
    s->focus = -1;
    s->strangers = strangers;
}

WORLD_FN int world_is_boy(const world *w, int name) { return name >= w->n_entries[WC_GIRL]; }

/* Whom "she" (boy 0) or "he" (1) means: the one the last sentence was about, else who was named last. -1: nobody. */
WORLD_FN int world_whom(const world *w, const world_state *s, int boy, int not_this)
{
    int i, best = -1;
    if (s->focus >= 0 && s->focus != not_this && world_is_boy(w, s->name[s->focus]) == boy) return s->focus;
    for (i = 0; i < s->n_chars; i++)
        if (i != not_this && world_is_boy(w, s->name[i]) == boy && (best < 0 || s->stamp[i] > s->stamp[best])) best = i;
    return best;
}

WORLD_FN const char *world_text(const world *w, int word) { return w->text + w->word_at[word]; }
WORLD_FN const world_entry *world_name(const world *w, int name)
{
    const int girls = w->n_entries[WC_GIRL];
    return name < girls ? &w->entry[WC_GIRL][name] : &w->entry[WC_BOY][name - girls];
}
WORLD_FN const char *world_noun(const world *w, int noun) { return world_text(w, w->entry[WC_OBJECT][noun].word[0]); }

enum { WORLD_WHY = 160 };
WORLD_FN int world_no(char why[WORLD_WHY], const char *format, ...)
{
    va_list args;
    if (!why) return 0;
    va_start(args, format);
    vsnprintf(why, WORLD_WHY, format, args);
    va_end(args);
    return 0;
}

WORLD_FN int world_add_fact(world_state *s, int pred, int n, const int *arg)
{
    world_fact *f = &s->fact[s->n_facts];
    int i, k;
    for (i = 0; i < s->n_facts; i++) {                   /* known already: once is enough */
        for (k = 0; k < n && s->fact[i].arg[k] == arg[k];) k++;
        if (s->fact[i].pred == pred && s->fact[i].alive && k == n) return 1;
    }
    if (s->n_facts == WORLD_FACTS) return 0;
    s->n_facts++;
    f->pred = (int16_t)pred;
    f->alive = 1;
    f->n = (int8_t)n;
    for (k = 0; k < 4; k++) f->arg[k] = (int16_t)(k < n ? arg[k] : -1);
    return 1;
}

/* Finds or makes the character that role r of the sentence means. */
WORLD_FN int world_settle_character(const world *w, world_state *s, world_bind *b, int r, int fresh, char *why)
{
    const int name = b->v[r];
    int i, found = -1, kinds = 0;
    if (name >= 0) {
        for (i = 0; i < s->n_chars; i++) if (s->name[i] == name) found = i;
        if (fresh && found >= 0) return world_no(why, "%s is introduced again", world_text(w, world_name(w, name)->word[0]));
        if (!fresh && found < 0 && !s->strangers)
            return world_no(why, "nobody is named %s", world_text(w, world_name(w, name)->word[0]));
        if (found < 0) {
            if (s->n_chars == WORLD_CHARS) return world_no(why, "too many characters");
            found = s->n_chars++;
            s->name[found] = name;
            s->kind[found] = s->trait[found] = -1;
            s->stamp[found] = 0;
        }
    } else if (fresh) {
        return world_no(why, "somebody without a name");
    } else if (b->kind[r] >= 0) {
        for (i = 0; i < s->n_chars; i++) if (s->kind[i] == b->kind[r]) found = i, kinds++;
        if (kinds != 1) return world_no(why, kinds ? "which %s?" : "there is no %s",
                                        world_text(w, w->entry[WC_KIND][b->kind[r]].word[0]));
    } else if (b->pronoun[r] >= 0) {
        found = world_whom(w, s, b->pronoun[r], r == WR_T ? b->who[WR_S] : -1);
        if (found < 0) return world_no(why, "nobody that '%s' could be", b->pronoun[r] ? "he" : "she");
    } else {
        return world_no(why, "nobody is meant");
    }
    if (b->pronoun[r] >= 0 && world_is_boy(w, s->name[found]) != b->pronoun[r])
        return world_no(why, "%s is not '%s'", world_text(w, world_name(w, s->name[found])->word[0]),
                        b->pronoun[r] ? "he" : "she");
    b->who[r] = found;
    return 1;
}

/* Kind and trait that the sentence states must be those that are known. */
WORLD_FN int world_settle_traits(const world *w, world_state *s, world_bind *b, int r, char *why)
{
    const int c = b->who[r];
    if (b->kind[r] >= 0) {
        int arg[2];
        if (s->kind[c] >= 0 && s->kind[c] != b->kind[r])
            return world_no(why, "%s is not a %s", world_text(w, world_name(w, s->name[c])->word[0]),
                            world_text(w, w->entry[WC_KIND][b->kind[r]].word[0]));
        s->kind[c] = b->kind[r];
        arg[0] = c;
        arg[1] = b->kind[r];
        if (!world_add_fact(s, w->pred_kind, 2, arg)) return world_no(why, "too many facts");
    }
    if (b->trait[r] >= 0) {
        if (s->trait[c] >= 0 && s->trait[c] != b->trait[r]) return world_no(why, "not the same character as before");
        s->trait[c] = b->trait[r];
    }
    return 1;
}

WORLD_FN int world_settle_object(const world *w, world_state *s, world_bind *b, int k, int fresh, char *why)
{
    const int noun = b->v[WR_X + k], colour = b->colour[k];
    int i, found = -1, arg[2];
    for (i = 0; i < s->n_objects; i++) if (s->noun[i] == noun) found = i;
    if (fresh && found >= 0) {
        return world_no(why, "there is a %s already", world_noun(w, noun));
    } else if (!fresh && found < 0) {
        return world_no(why, "there is no %s", world_noun(w, noun));
    } else if (found < 0) {
        if (s->n_objects == WORLD_OBJECTS) return world_no(why, "too many things");
        found = s->n_objects++;
        s->noun[found] = noun;
        s->colour[found] = -1;
    }
    if (colour >= 0) {
        if (s->colour[found] >= 0 && s->colour[found] != colour)
            return world_no(why, "the %s is %s, not %s", world_noun(w, noun),
                            world_text(w, w->entry[WC_COLOUR][s->colour[found]].word[0]),
                            world_text(w, w->entry[WC_COLOUR][colour].word[0]));
        s->colour[found] = colour;
        arg[0] = found;
        arg[1] = colour;
        if (!world_add_fact(s, w->pred_colour, 2, arg)) return world_no(why, "too many facts");
    }
    b->what[k] = found;
    return 1;
}

/* The value of a role in facts; -1: any. */
WORLD_FN int world_value(const world_bind *b, int role)
{
    if (role < 0 || !(b->roles >> role & 1)) return -1;
    return role <= WR_U ? b->who[role] : role <= WR_Y ? b->what[role - WR_X] : b->v[role];
}

WORLD_FN int world_fits(const world_fact *f, const world_rule *r, const int arg[4])
{
    int k;
    if (f->pred != r->pred || !f->alive) return 0;
    for (k = 0; k < r->pred_n && k < f->n; k++)
        if (arg[k] >= 0 && f->arg[k] >= 0 && f->arg[k] != arg[k]) return 0;
    return 1;
}

WORLD_FN int world_apply(const world *w, world_state *s, const world_bind *b, const world_rule *r, char *why)
{
    int arg[4] = {-1, -1, -1, -1}, i, k, any = 0;
    for (k = 0; k < r->pred_n; k++) arg[k] = world_value(b, r->role[k]);
    for (i = 0; i < s->n_facts && r->what != '+'; i++) {
        if (!world_fits(&s->fact[i], r, arg)) continue;
        any = 1;
        if (r->what == '-') s->fact[i].alive = 0;
    }
    if ((r->what == '?' && !any) || (r->what == '!' && any)) {
        char who[40] = "";
        if (r->role[0] >= 0 && r->role[0] <= WR_U && b->who[r->role[0]] >= 0)
            snprintf(who, sizeof who, " (%s)", world_text(w, world_name(w, s->name[b->who[r->role[0]]])->word[0]));
        return world_no(why, "against what was said: %s%.*s%s", r->what == '!' ? "already " : "not ", w->pred[r->pred].size,
                        w->pred[r->pred].name, who);
    }
    if (r->what == '+' && !world_add_fact(s, r->pred, r->pred_n, arg)) return world_no(why, "too many facts");
    return 1;
}

/* Makes a sentence true: 1, or 0 and the reason if it contradicts what is known (the state is then spoiled: keep a
   copy). */
WORLD_FN int world_settle(const world *w, world_state *s, int event, world_bind *b, char *why)
{
    const world_event *e = &w->event[event];
    int r, i, first = -1;
    for (r = WR_S; r <= WR_U; r++) {
        if (!(b->roles >> r & 1)) continue;
        if (!world_settle_character(w, s, b, r, e->fresh >> r & 1, why)) return 0;
        for (i = 0; i < r; i++)
            if (b->who[i] == b->who[r]) return world_no(why, "somebody does this with himself");
        if (!world_settle_traits(w, s, b, r, why)) return 0;
    }
    for (r = WR_X; r <= WR_Y; r++)
        if ((b->roles >> r & 1) && !world_settle_object(w, s, b, r - WR_X, e->fresh >> r & 1, why)) return 0;
    if (b->what[0] >= 0 && b->what[0] == b->what[1]) return world_no(why, "one thing for itself");
    for (i = 0; i < e->n_rules; i++) {
        const world_rule *rule = &w->rule[e->first_rule + i];
        if (rule->what != 'n' && !world_apply(w, s, b, rule, why)) return 0;
    }
    s->now++;
    for (r = WR_U; r >= WR_S; r--)
        if (b->who[r] >= 0) s->stamp[b->who[r]] = 3 * s->now + 2 - r, first = b->who[r];
    if (first >= 0) s->focus = first;
    return 1;
}

/* ---------------------------------------------------------------------------------------------- writing */

/* splitmix64: 64 bits in, 64 well-mixed bits out, and the state goes on. */
WORLD_FN uint64_t world_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

WORLD_FN int world_below(uint64_t *state, int n) { return (int)((world_random(state) >> 33) % (uint64_t)n); }

/* An entry of a class of n, where which one it is matters little. As in any language a few words are frequent and many
   are rare: the first eighth of a list gets half of the draws (n u^3 for a uniform u, in integers). Names, kinds and
   things are drawn evenly: two in one story should rarely be confused. */
WORLD_FN int world_entry_of(uint64_t *state, int n)
{
    const uint64_t u = world_random(state) >> 44;        /* 20 bits */
    return (int)((u * u * u >> 40) * (uint64_t)n >> 20);
}

/* A text that grows; full once it would not fit. */
typedef struct world_out { char *text; int size, capacity, full, units, after_a; } world_out;

WORLD_FN void world_write(world_out *o, const char *text, int n)
{
    if (n > o->capacity - 1 - o->size) {
        o->full = 1;
        return;
    }
    memcpy(o->text + o->size, text, (size_t)n);
    o->size += n;
    o->text[o->size] = 0;
}

/* A word or mark. "a" before a vowel becomes "an". units counts them: about the tokens a model sees. */
WORLD_FN void world_write_word(const world *w, world_out *o, int word, int cap, int space)
{
    const char *text = world_text(w, word);
    char first = *text;
    if (o->after_a && strchr("aeiou", first)) world_write(o, "n", 1);
    if (space && o->size) world_write(o, " ", 1);
    if (cap && first >= 'a' && first <= 'z') first = (char)(first - 'a' + 'A');
    world_write(o, &first, 1);
    world_write(o, text + 1, (int)strlen(text + 1));
    o->after_a = word == w->w_a;
    o->units++;
}

WORLD_FN void world_write_entry(const world *w, world_out *o, const world_entry *e, int cap, int space)
{
    int k;
    for (k = 0; k < e->n; k++) world_write_word(w, o, e->word[k], (k == 0 && cap) || e->cap[k], k ? 1 : space);
}

/* Who and what plays in a story, and what is known so far. */
typedef struct world_cast {
    int name[WORLD_CAST], kind[WORLD_CAST], trait[WORLD_CAST], noun[WORLD_CAST], colour[WORLD_CAST], place[WORLD_CAST];
    int value[WR_ROLES];             /* what stays the same throughout: food, fear, ... */
} world_cast;

typedef struct world_teller {
    const world *w;
    uint64_t rng;
    world_cast cast;
    world_state state;
    world_out out;
    uint8_t told[WORLD_MAX_LINES];   /* lines used in this story */
    int plain;                       /* names and nouns only, for questions */
    int swapped;                     /* A and B have changed parts since they met */
} world_teller;

/* n different entries of a class, or of its first `limit`. */
WORLD_FN void world_draw(uint64_t *rng, int *out, int n, int limit)
{
    int i, k;
    for (i = 0; i < n; i++) {
        do {
            out[i] = world_below(rng, limit);
            for (k = 0; k < i && out[k] != out[i];) k++;
        } while (k < i);
    }
}

/* A girl's or a boy's name. */
WORLD_FN int world_any_name(world_teller *t, int boy)
{
    const int girls = t->w->n_entries[WC_GIRL];
    return boy ? girls + world_below(&t->rng, t->w->n_entries[WC_BOY]) : world_below(&t->rng, girls);
}

WORLD_FN void world_draw_cast(world_teller *t, int hard)
{
    const world *w = t->w;
    world_cast *c = &t->cast;
    const int first = world_below(&t->rng, 2);           /* girls and boys take turns, so that "he" and "she" tell them apart */
    int i, r;
    for (i = 0; i < WORLD_CAST; i++) {
        int k;
        do {
            c->name[i] = world_any_name(t, (first + i) & 1);
            for (k = 0; k < i && c->name[k] != c->name[i];) k++;
        } while (k < i);
    }
    world_draw(&t->rng, c->kind, WORLD_CAST, w->n_entries[WC_KIND]);
    world_draw(&t->rng, c->trait, WORLD_CAST, w->n_entries[WC_TRAIT]);
    world_draw(&t->rng, c->noun, WORLD_CAST, hard ? w->n_hard : w->n_entries[WC_OBJECT]);
    world_draw(&t->rng, c->colour, WORLD_CAST, w->n_entries[WC_COLOUR]);
    world_draw(&t->rng, c->place, WORLD_CAST, w->n_entries[WC_PLACE]);
    for (r = WR_D; r < WR_ROLES; r++) c->value[r] = world_entry_of(&t->rng, w->n_entries[world_role_class[r]]);
}

/* How a character is called here: an entry of the form list, chosen so that world_whom understands it. */
WORLD_FN int world_choose_form(world_teller *t, const world_token *slot, int who, int seen, int others_alike)
{
    const world *w = t->w;
    const world_state *s = &t->state;
    const int boy = world_is_boy(w, s->name[who]);
    const int chance = world_below(&t->rng, 100);
    int i, recent = 0, rival = 0;                        /* rival: another whom the pronoun could mean */
    if (t->plain || slot->form == WF_NAME) return WF_NAME;
    if (slot->form >= WF_HE && slot->form != WF_OWNER) return WF_HE;
    if (seen) return !others_alike && chance < 40 ? WF_HE : WF_NAME;
    for (i = 0; i < s->n_chars; i++) {
        if (s->stamp[i] >= 3 * s->now) {
            if (i == who) recent = 1;
            else rival |= world_is_boy(w, s->name[i]) == boy;
        }
    }
    return recent && !rival && !others_alike && world_whom(w, s, boy, -1) == who && chance < 15 ? WF_HE : WF_NAME;
}

WORLD_FN void world_write_pronoun(world_teller *t, const world_token *slot, int boy)
{
    const world *w = t->w;
    const int f = slot->form;
    const int subject = f == WF_PLAIN || f == WF_HE, object = f == WF_OBJECT || f == WF_HIM;
    const int word = subject ? (boy ? w->w_he : w->w_she) : object ? (boy ? w->w_him : w->w_her) : boy ? w->w_his : w->w_her;
    world_write_word(w, &t->out, word, slot->cap, slot->space);
}

/* Writes a mention of cast member c, and what it says into the binding. */
WORLD_FN void world_write_character(world_teller *t, const world_token *slot, int c, world_bind *b, uint32_t seen, int alike)
{
    const world *w = t->w;
    const int r = slot->role, name = t->cast.name[c], boy = world_is_boy(w, name);
    int i, who = -1, form;
    if (slot->form == WF_KIND || slot->form == WF_TRAIT) {
        const int e = slot->form == WF_KIND ? t->cast.kind[c] : t->cast.trait[c];
        *(slot->form == WF_KIND ? &b->kind[r] : &b->trait[r]) = e;
        world_write_entry(w, &t->out, &w->entry[slot->form == WF_KIND ? WC_KIND : WC_TRAIT][e], slot->cap, slot->space);
        return;
    }
    for (i = 0; i < t->state.n_chars; i++) if (t->state.name[i] == name) who = i;
    form = who < 0 && slot->form != WF_HE && slot->form != WF_HIM && slot->form != WF_HIS ? WF_NAME :
           who < 0 ? WF_HE : world_choose_form(t, slot, who, (int)(seen >> r & 1), alike);
    if (form == WF_HE) {
        b->pronoun[r] = boy;
        world_write_pronoun(t, slot, boy);
        return;
    }
    b->v[r] = name;
    world_write_entry(w, &t->out, world_name(w, name), 1, slot->space);
    if (slot->form == WF_OWNER) world_write_word(w, &t->out, w->w_s, 0, 0);
}

WORLD_FN void world_write_object(world_teller *t, const world_token *slot, int c, world_bind *b)
{
    const world *w = t->w;
    const int k = slot->role - WR_X, noun = t->cast.noun[c];
    int i, known = 0, with;
    for (i = 0; i < t->state.n_objects; i++)
        if (t->state.noun[i] == noun && t->state.colour[i] >= 0) known = 1;
    with = slot->form == WF_FULL || slot->form == WF_COLOUR ||
           (slot->form == WF_PLAIN && known && !t->plain && world_below(&t->rng, 100) < 40);
    if (with) {
        b->colour[k] = t->cast.colour[c];
        world_write_entry(w, &t->out, &w->entry[WC_COLOUR][b->colour[k]], slot->cap, slot->space);
        if (slot->form == WF_COLOUR) return;
    }
    b->v[slot->role] = noun;
    world_write_entry(w, &t->out, &w->entry[WC_OBJECT][noun], slot->cap && !with, with ? 1 : slot->space);
}

/* Writes a line. who: which cast member, thing or place each role is (index into the cast); -1: none. Returns what
   world_match would find in it. */
WORLD_FN world_bind world_tell(world_teller *t, const world_line *line, const int who[WR_ROLES])
{
    const world *w = t->w;
    world_bind b;
    uint32_t seen = 0;
    int i, r, c, boys = 0, girls = 0, last_spot = -1;
    world_unbind(&b);
    b.roles = line->roles;
    for (r = WR_S; r <= WR_U; r++)
        if (line->roles >> r & 1) *(world_is_boy(w, t->cast.name[who[r]]) ? &boys : &girls) += 1;
    for (i = 0; i < line->n; i++) {
        const world_token *k = &w->token[line->first + i];
        r = k->role;
        if (r < 0) {
            world_write_word(w, &t->out, k->word, k->cap, k->space);
        } else if (r <= WR_U) {
            const int alike = (world_is_boy(w, t->cast.name[who[r]]) ? boys : girls) > 1;
            world_write_character(t, k, who[r], &b, seen, alike);
            if (k->form != WF_KIND && k->form != WF_TRAIT) seen |= 1u << r;
        } else if (r <= WR_Y) {
            world_write_object(t, k, who[r], &b);
        } else if (r <= WR_Q) {
            const world_entry *e = &w->entry[WC_PLACE][c = t->cast.place[who[r]]];
            if (k->form != WF_NOUN) {
                world_write_word(w, &t->out, e->prep, k->cap, k->space);
                world_write_word(w, &t->out, w->w_the, 0, 1);
            }
            world_write_entry(w, &t->out, e, 0, k->form != WF_NOUN ? 1 : k->space);
            b.v[r] = c;
        } else {
            const int class_ = world_role_class[r];
            c = t->cast.value[r];
            if (!t->plain && (world_is_free(r) || r == WR_J || r == WR_F || r == WR_G) && (world_is_free(r) || b.v[r] < 0)) {
                do c = world_entry_of(&t->rng, w->n_entries[class_]); while (c == last_spot && r == WR_N);
                last_spot = r == WR_N ? c : last_spot;
            } else if (!t->plain && b.v[r] >= 0) {
                c = b.v[r];
            }
            b.v[r] = c;
            world_write_entry(w, &t->out, &w->entry[class_][c], k->cap, k->space);
        }
    }
    return b;
}

/* "AXP" to cast numbers by role. */
WORLD_FN void world_bind_letters(const char *letters, int who[WR_ROLES])
{
    int r, chars = WR_S, objects = WR_X, places = WR_P;
    for (r = 0; r < WR_ROLES; r++) who[r] = -1;
    for (; *letters; letters++) {
        if (*letters >= 'A' && *letters <= 'D') who[chars++] = *letters - 'A';
        else if (*letters >= 'W') who[objects++] = *letters == 'W' ? 3 : *letters - 'X';
        else if (*letters >= 'P' && *letters <= 'R') who[places++] = *letters - 'P';
        else who[places++] = 3;                          /* V: where somebody lives */
    }
}

/* Tells one event: 1, or 0 and nothing changed if the rules do not allow it or no line fits. */
WORLD_FN int world_tell_event(world_teller *t, int event, const int who[WR_ROLES])
{
    const world *w = t->w;
    const world_event *e = &w->event[event];
    const world_state state = t->state;
    const world_out out = t->out;
    const int start = world_below(&t->rng, e->n);
    int i, r, again;
    for (again = 0; again < 2; again++) {
        for (i = 0; i < e->n; i++) {
            const int at = e->first + (start + i) % e->n;
            const world_line *line = &w->line[at];
            world_bind b;
            int right = 1;
            for (r = WR_S; r <= WR_Q; r++) if ((line->roles >> r & 1) && who[r] < 0) right = 0;
            if (!right || (t->told[at] && !again)) continue;
            if (t->out.size) world_write(&t->out, " ", 1);
            b = world_tell(t, line, who);
            right = world_settle(w, &t->state, event, &b, NULL);
            for (r = WR_S; r <= WR_U && right; r++)
                if (b.who[r] >= 0) right = t->state.name[b.who[r]] == t->cast.name[who[r]];
            if (right) {
                t->told[at] = 1;
                return 1;
            }
            t->state = state;
            t->out = out;
        }
    }
    return 0;
}

WORLD_FN void world_begin_teller(world_teller *t, const world *w, uint64_t seed, char *text, int capacity)
{
    memset(t, 0, sizeof *t);
    t->w = w;
    t->rng = seed;
    t->out.text = text;
    t->out.capacity = capacity;
    if (capacity > 0) *text = 0;
}

/* Tells the plot; 0 if it did not work out (too long, too short, a step that the rules forbid). In half of the stories
   the two change parts once they have met, as far as the rules allow: who owns, loses or gives something must be
   remembered, since it can't be told from who came first. */
WORLD_FN int world_tell_plot(world_teller *t, int plot, int min_units, int max_units)
{
    const world *w = t->w;
    const int may_swap = world_below(&t->rng, 2);
    int i, who[WR_ROLES], met = 0;
    world_begin(&t->state, 0);
    memset(t->told, 0, sizeof t->told);
    t->swapped = 0;
    t->out.size = t->out.full = t->out.units = t->out.after_a = 0;
    world_draw_cast(t, strchr(world_plots[plot].flags, 'h') != NULL);
    for (i = 0; i < w->n_steps[plot]; i++) {
        const world_step *step = &w->step[plot][i];
        const int k = world_below(&t->rng, step->n);
        if (step->optional && (world_below(&t->rng, 100) < 55 || t->out.units > max_units - 40)) continue;
        world_bind_letters(step->either[k].cast, who);
        met |= t->state.n_chars == 2;
        if (met && may_swap) {
            int r;
            for (r = WR_S; r <= WR_U; r++)
                if (who[r] == 0 || who[r] == 1) who[r] = 1 - who[r];
            t->swapped = 1;
        }
        if (!world_tell_event(t, step->either[k].event, who) && !step->optional &&
            w->event[step->either[k].event].name_size != 3)              /* "own" after "openown" is known already */
            return 0;
    }
    return !t->out.full && t->out.units >= min_units && t->out.units <= max_units;
}

/* ------------------------------------------------------------------------------------------- documents */

/* Whether a story (or the facts of a question) belongs to the part that training never sees: one in 50, told by a hash
   of its text alone (FNV-1a). */
WORLD_FN int world_is_held_out(const char *text, size_t size)
{
    uint64_t h = 14695981039346656037u;
    size_t i;
    for (i = 0; i < size; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return (h ^ h >> 29) % 50 == 0;
}

/* Draws plots until one works out; returns it. */
WORLD_FN int world_any_story(world_teller *t, int max_units)
{
    for (;;) {
        const int plot = world_below(&t->rng, WORLD_COUNT(world_plots));
        if (world_tell_plot(t, plot, 50, max_units)) return plot;
    }
}

/* Facts as a user would give them, two to six. */
WORLD_FN void world_tell_facts(world_teller *t)
{
    static const char *const steps[] = {
        "hadfact AX", "hadfact BY", "hadfact CZ", "hadfact AW", "hadfact BX", "iskind A", "iskind B", "iskind C", "live AP",
        "live BQ", "live CR", "like A", "like B", "like C", "thingat XP", "thingat YQ", "thingat ZR", "gofact AP", "gofact BQ",
        "gofact CR", "want AY", "want BX", "hasfood A", "cannot B", "fear A", "give AB X", "give BC Y", "give BA Y", "give CA Z",
        "give BC X", "give AC X", "lose AX", "lose BY", "find CXP", "find AYQ", "takefact BXP", "takefact CYQ", "fear C",
        "meet AB", "meet BC"
    };
    const int want = 2 + world_below(&t->rng, 4);
    int who[WR_ROLES], tries, n = 0, r;
    world_begin(&t->state, 1);
    world_draw_cast(t, 0);
    for (tries = 0; n < want && tries < 200; tries++) {
        const char *step = steps[world_below(&t->rng, WORLD_COUNT(steps))];
        const int size = (int)strcspn(step, " ");
        int e;
        for (e = 0; e < t->w->n_events; e++)
            if (t->w->event[e].name_size == size && memcmp(t->w->event[e].name, step, (size_t)size) == 0) break;
        if (n == 0 && tries < 50 && *step != 'h' && *step != 'i' && *step != 't') continue;
        for (r = WR_D; r <= WR_L; r++)                   /* a new food, fear, ... for each */
            t->cast.value[r] = world_entry_of(&t->rng, t->w->n_entries[world_role_class[r]]);
        {
            char letters[8];
            int k = 0;
            for (step += size; *step; step++) if (*step != ' ' && k < 7) letters[k++] = *step;
            letters[k] = 0;
            world_bind_letters(letters, who);
        }
        n += world_tell_event(t, e, who);
    }
}

/* A question, the answer, and the words that a right answer must contain. */
typedef struct world_qa { char question[256], answer[256], key[64]; int row; } world_qa;

WORLD_FN int world_cast_of(const int *list, int value)
{
    int i;
    for (i = 0; i < WORLD_CAST; i++) if (list[i] == value) return i;
    return -1;
}

/* Sets who[] and cast values so that the roles of the question mean the fact's. */
WORLD_FN int world_take_fact(world_teller *t, const world_question *q, const world_fact *f, int who[WR_ROLES])
{
    const uint32_t needed = q->question.roles | q->answer.roles;
    int k;
    for (k = 0; k < WR_ROLES; k++) who[k] = -1;
    for (k = 0; k < q->fact.pred_n; k++) {
        const int r = q->fact.role[k], v = f->arg[k];
        if (!(needed >> r & 1)) continue;
        if (v < 0) return 0;
        if (r <= WR_U) who[r] = world_cast_of(t->cast.name, t->state.name[v]);
        else if (r <= WR_Y) who[r] = world_cast_of(t->cast.noun, t->state.noun[v]);
        else if (r <= WR_Q) who[r] = world_cast_of(t->cast.place, v);
        else t->cast.value[r] = v;
    }
    return 1;
}

/* 1 if no other fact answers the same question differently. */
WORLD_FN int world_is_only_answer(const world_state *s, const world_question *q, const world_fact *f)
{
    int i, k;
    for (i = 0; i < s->n_facts; i++) {
        const world_fact *g = &s->fact[i];
        int same = 1, other = 0;
        if (g == f || g->pred != f->pred || (q->now && !g->alive)) continue;
        for (k = 0; k < q->fact.pred_n; k++) {
            if (q->fact.role[k] == q->key) other |= g->arg[k] != f->arg[k];
            else if ((q->question.roles >> q->fact.role[k] & 1) && g->arg[k] >= 0 && g->arg[k] != f->arg[k]) same = 0;
        }
        if (same && other) return 0;
    }
    return 1;
}

WORLD_FN void world_tell_plainly(world_teller *t, const world_line *line, const int who[WR_ROLES], char *text, int capacity)
{
    const world_out out = t->out;
    memset(&t->out, 0, sizeof t->out);
    t->out.text = text;
    t->out.capacity = capacity;
    *text = 0;
    t->plain = 1;
    world_tell(t, line, who);
    t->plain = 0;
    t->out = out;
    t->out.units += line->n;
}

/* The words for the key role alone. */
WORLD_FN void world_tell_key(world_teller *t, const world_question *q, const int who[WR_ROLES], char *text, int capacity)
{
    const world *w = t->w;
    const int r = q->key;
    const world_entry *e = r <= WR_U ? world_name(w, t->cast.name[who[r]]) :
                           r <= WR_Y ? &w->entry[WC_OBJECT][t->cast.noun[who[r]]] :
                           r <= WR_Q ? &w->entry[WC_PLACE][t->cast.place[who[r]]] :
                                       &w->entry[world_role_class[r]][t->cast.value[r]];
    world_out out;
    memset(&out, 0, sizeof out);
    out.text = text;
    out.capacity = capacity;
    world_write_entry(w, &out, e, r <= WR_U, 0);
}

/* A question about something that the story does not mention. */
WORLD_FN void world_ask_unknown(world_teller *t, world_qa *qa)
{
    int who[WR_ROLES], k, i, noun, name;
    for (k = 0; k < WR_ROLES; k++) who[k] = -1;
    do {
        noun = world_below(&t->rng, t->w->n_entries[WC_OBJECT]);
        name = world_any_name(t, world_below(&t->rng, 2));
    } while (world_cast_of(t->cast.noun, noun) >= 0 || world_cast_of(t->cast.name, name) >= 0);
    who[WR_S] = who[WR_X] = 0;
    i = t->cast.noun[0];
    k = t->cast.name[0];
    t->cast.noun[0] = noun;
    t->cast.name[0] = name;
    qa->row = world_below(&t->rng, WORLD_COUNT(world_unknowns));
    world_tell_plainly(t, &t->w->unknown[qa->row], who, qa->question, sizeof qa->question);
    qa->row = -1 - qa->row;
    t->cast.noun[0] = i;
    t->cast.name[0] = k;
    snprintf(qa->answer, sizeof qa->answer, "%s", world_unknown_answer);
    snprintf(qa->key, sizeof qa->key, "does not say");
}

/* A question about what was told; 0 if none was found. */
WORLD_FN int world_ask(world_teller *t, world_qa *qa)
{
    const world *w = t->w;
    int tries, who[WR_ROLES];
    for (tries = 0; tries < 400; tries++) {
        const int row = world_below(&t->rng, WORLD_COUNT(world_questions));
        const world_question *q = &w->question[row];
        int i, k = 0, pick;
        for (i = 0; i < t->state.n_facts; i++)
            if (t->state.fact[i].pred == q->fact.pred && (!q->now || t->state.fact[i].alive)) k++;
        if (!k) continue;
        pick = world_below(&t->rng, k);
        for (i = 0; i < t->state.n_facts; i++)
            if (t->state.fact[i].pred == q->fact.pred && (!q->now || t->state.fact[i].alive) && pick-- == 0) break;
        if (!world_is_only_answer(&t->state, q, &t->state.fact[i])) continue;
        if (!world_take_fact(t, q, &t->state.fact[i], who)) continue;
        if (strstr(world_questions[row].question, "animal") && w->entry[WC_KIND][t->cast.value[WR_K]].human) continue;
        world_tell_plainly(t, &q->question, who, qa->question, sizeof qa->question);
        world_tell_plainly(t, &q->answer, who, qa->answer, sizeof qa->answer);
        world_tell_key(t, q, who, qa->key, sizeof qa->key);
        qa->row = row;
        return 1;
    }
    return 0;
}

/* People type as they like: no capital, no mark at the end. Numbers below 100 decide. */
WORLD_FN void world_type(uint64_t *rng, char *text)
{
    const size_t n = strlen(text);
    if (n > 1 && world_below(rng, 100) < 40 && !(text[0] == 'I' && text[1] == ' ') && text[0] >= 'A' && text[0] <= 'Z')
        text[0] = (char)(text[0] - 'A' + 'a');
    if (n > 1 && world_below(rng, 100) < 25) text[n - 1] = 0;
}

/* What a user says to get this story. */
WORLD_FN void world_request(world_teller *t, int plot, char *text, int capacity)
{
    char topic[160];
    int who[WR_ROLES], k, n;
    const int kind = world_below(&t->rng, 100);
    for (k = 0; k < WR_ROLES; k++) who[k] = -1;
    if (kind < 12) {
        snprintf(text, (size_t)capacity, "%s", world_requests[world_below(&t->rng, WORLD_COUNT(world_requests))]);
        world_type(&t->rng, text);
        return;
    }
    who[WR_S] = t->swapped && kind < 45 ? 1 : 0;
    who[WR_T] = 1 - who[WR_S];
    who[WR_X] = 0;
    if (kind < 45) {
        world_tell_plainly(t, &t->w->about[plot], who, topic, sizeof topic);
    } else {
        do k = world_below(&t->rng, WORLD_COUNT(world_topics));
        while (((t->w->topic[k].roles >> WR_T & 1) && t->state.n_chars < 2) ||
               ((t->w->topic[k].roles >> WR_X & 1) && world_cast_of(t->state.noun, t->cast.noun[0]) < 0));
        world_tell_plainly(t, &t->w->topic[k], who, topic, sizeof topic);
    }
    k = world_below(&t->rng, WORLD_COUNT(world_requests_about));
    n = snprintf(text, (size_t)capacity, "%s%s%s", world_requests_about[k], topic,
                 strchr("CD", world_requests_about[k][0]) ? "?" : ".");
    if (n >= capacity) text[capacity - 1] = 0;
    world_type(&t->rng, text);
}

typedef struct world_message { int assistant; char text[WORLD_MAX_TEXT]; } world_message;
enum { WORLD_MESSAGES = 10 };

/* One document. kind 0: a story; 1: a chat in which a story is told; 2: a chat about facts that the user gives. */
typedef struct world_doc {
    int kind, n, units;              /* units: words and marks, about the tokens */
    int held_out;                    /* belongs to the part that training never sees */
    int small_talk;                  /* ends with thanks or a goodbye, not with a question about the story */
    char key[64];                    /* what the last answer must contain */
    world_message message[WORLD_MESSAGES];
} world_doc;

/* Adds a message: text, then more (which may be empty). Too long for a message: cut. */
WORLD_FN void world_say(world_doc *d, int assistant, const char *text, const char *more)
{
    const char *const parts[2] = {text, more};
    world_message *m = &d->message[d->n];
    size_t size = 0;
    int i;
    if (d->n == WORLD_MESSAGES) return;
    for (i = 0; i < 2; i++) {
        const size_t room = sizeof m->text - 1 - size, n = strlen(parts[i]);
        memcpy(m->text + size, parts[i], n < room ? n : room);
        size += n < room ? n : room;
    }
    m->text[size] = 0;
    m->assistant = assistant;
    d->n++;
}

/* Adds n questions and answers, no question twice; the first is put behind the text of facts, if there is one. */
WORLD_FN int world_add_questions(world_teller *t, world_doc *d, int n, const char *facts)
{
    int rows[8], i, k, done = 0;
    for (i = 0; done < n && i < 20; i++) {
        world_qa qa;
        if (world_below(&t->rng, 100) < 6) world_ask_unknown(t, &qa);
        else if (!world_ask(t, &qa)) return done;
        for (k = 0; k < done && rows[k] != qa.row;) k++;
        if (k < done) continue;
        rows[done] = qa.row;
        world_type(&t->rng, qa.question);
        if (facts && !done && *qa.question >= 'a') *qa.question = (char)(*qa.question - 'a' + 'A');
        world_say(d, 0, facts && !done ? facts : "", qa.question);
        world_say(d, 1, qa.answer, "");
        snprintf(d->key, sizeof d->key, "%s", qa.key);
        t->out.units += 5;
        done++;
    }
    return done;
}

WORLD_FN void world_make_chat(world_teller *t, world_doc *d)
{
    char text[WORLD_MAX_TEXT], request[256];
    int plot, k;
    t->out.text = text;
    t->out.capacity = sizeof text;
    plot = world_any_story(t, 118);
    d->held_out = world_is_held_out(text, (size_t)t->out.size);
    if (world_below(&t->rng, 100) < 5) {
        k = world_below(&t->rng, WORLD_GREETINGS);
        world_say(d, 0, world_small_talk[k][0], "");
        world_say(d, 1, world_small_talk[k][1], "");
        t->out.units += 15;
    }
    world_request(t, plot, request, sizeof request);
    world_say(d, 0, request, "");
    world_say(d, 1, text, "");
    t->out.units += 8;
    if (!world_add_questions(t, d, t->out.units > 122 ? 1 : 1 + world_below(&t->rng, 3), NULL)) t->out.full = 1;
    if (world_below(&t->rng, 100) < 5) {
        d->small_talk = 1;
        k = WORLD_GREETINGS + world_below(&t->rng, WORLD_COUNT(world_small_talk) - WORLD_GREETINGS);
        world_say(d, 0, world_small_talk[k][0], "");
        world_say(d, 1, world_small_talk[k][1], "");
        t->out.units += 12;
    }
}

/* Makes document number seed. */
WORLD_FN void world_make_document(const world *w, uint64_t seed, world_doc *d)
{
    uint64_t rng = seed * 0xD1342543DE82EF95u + 0x2545F4914F6CDD1Du;
    world_teller t;
    char text[WORLD_MAX_TEXT];
    const int kind = world_below(&rng, 100);             /* once: the long kinds are redrawn more often */
    do {
        memset(d, 0, offsetof(world_doc, message));
        world_begin_teller(&t, w, world_random(&rng), text, sizeof text);
        d->kind = kind < 40 ? 0 : kind < 66 ? 1 : 2;
        if (d->kind == 0) {
            world_any_story(&t, 145);
            d->held_out = world_is_held_out(text, (size_t)t.out.size);
            world_say(d, 1, text, "");
        } else if (d->kind == 1) {
            world_make_chat(&t, d);
        } else {
            world_tell_facts(&t);
            d->held_out = world_is_held_out(text, (size_t)t.out.size);
            world_write(&t.out, " ", 1);                 /* the question follows in the same message */
            if (!world_add_questions(&t, d, 1 + world_below(&t.rng, 4), text)) t.out.full = 1;
        }
        d->units = t.out.units;
    } while (t.out.full || d->units > 155);
}

/* Writes a document as the trainer reads it: a story, or turns in the model's chat template. Returns the bytes, NUL
   not counted; -1 if they do not fit. */
WORLD_FN int world_write_document(const world_doc *d, char *text, int capacity)
{
    int i, at = 0;
    for (i = 0; i < d->n && at < capacity; i++) {
        const world_message *m = &d->message[i];
        if (d->kind == 0) at += snprintf(text + at, (size_t)(capacity - at), "%s", m->text);
        else at += snprintf(text + at, (size_t)(capacity - at), "%s: %s<|eot_id|>", m->assistant ? "Assistant" : "User", m->text);
    }
    if (at < capacity) at += snprintf(text + at, (size_t)(capacity - at), "<|end_of_text|>\n");
    return at < capacity ? at : -1;
}

/* Writes story number seed; returns its bytes, or -1 if they do not fit in capacity. */
WORLD_FN int world_story(const world *w, uint64_t seed, char *text, int capacity)
{
    uint64_t rng = seed * 0xD1342543DE82EF95u + 0x9E6D5C3B1A2F4D77u;
    world_teller t;
    char whole[WORLD_MAX_TEXT];
    world_begin_teller(&t, w, world_random(&rng), whole, sizeof whole);
    world_any_story(&t, 145);
    if (t.out.size >= capacity) return -1;
    memcpy(text, whole, (size_t)t.out.size + 1);
    return t.out.size;
}

/* Question number seed from the part that training never sees: a document whose last message is the right answer, and
   doc->key, the words that a right answer must contain. What to ask a model: messages 0 to n - 2. */
WORLD_FN void world_make_quiz(const world *w, uint64_t seed, world_doc *d)
{
    uint64_t rng = seed ^ 0xA5A5F00DD00F5A5Au;
    do world_make_document(w, world_random(&rng), d);
    while (!d->held_out || d->kind == 0 || d->small_talk);
}

/* -------------------------------------------------------------------------------------------- checking */

enum { WORLD_CHECK_TOKENS = 1024 };

typedef struct world_verdict {
    int consistent;                  /* every sentence was read, and none contradicts another */
    int n_sentences, n_parsed;       /* n_parsed: those that fit a line of the grammar */
    int n_false;                     /* of the parsed, those that contradict what was said before */
    int bad_at, bad_size;            /* the first bad sentence, in bytes of the text */
    char why[WORLD_WHY];             /* what is wrong with it */
} world_verdict;

/* Cuts text into at most WORLD_CHECK_TOKENS tokens; returns how many, -1 if there are more. */
WORLD_FN int world_cut(const world *w, const char *text, size_t size, world_token *out)
{
    const char *p = text, *const end = text + size;
    int n = 0, space = 0;
    while (p < end) {
        world_token *t = &out[n];
        if (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') {
            space = 1;
            p++;
            continue;
        }
        if (n == WORLD_CHECK_TOKENS) return -1;
        world_next_token(w, p, end, t, NULL);
        t->space = (int8_t)space;
        t->at = (int32_t)(p - text);
        if (n && t->space && (out[n - 1].word == w->w_a || out[n - 1].word == -2)) {
            const int vowel = strchr("aeiouAEIOU", *p) != NULL;
            out[n - 1].word = (int16_t)(vowel == (out[n - 1].size == 2) ? w->w_a : -1);
        }
        if (t->size == 2 && (p[0] | 32) == 'a' && p[1] == 'n') t->word = -2;        /* settled by the next word */
        p += t->size;
        space = 0;
        n++;
    }
    return n;
}

/* The tokens up to the end of the sentence at t: . ! or ?, and a quote that closes there. */
WORLD_FN int world_sentence_end(const world *w, const world_token *t, int n, const char *text)
{
    int i, quotes = 0;
    (void)w;
    for (i = 0; i < n; i++) {
        const char c = text[t[i].at];
        if (c == '"') quotes++;
        if (c == '"' && quotes % 2 == 0 && i && strchr(".!?", text[t[i - 1].at]) && (i + 1 == n || (t[i + 1].cap)))
            return i + 1;
        if (quotes % 2 == 0 && (c == '.' || c == '!' || c == '?')) return i + 1;
    }
    return n;
}

/* Reads the sentence at t [n tokens] and makes it true; returns its tokens, 0 and the reason if it cannot be read or
   contradicts (*parsed: the tokens of the longest line that it fits). Of several lines that fit, the longest true one. */
WORLD_FN int world_read_sentence(const world *w, world_state *s, const world_token *t, int n, int *parsed, char *why)
{
    const world_state before = *s;
    world_state after = before;
    int i, best = 0, refused = 0;                        /* the reason is that of the first line that fits */
    *parsed = 0;
    for (i = 0; i < w->n_lines; i++) {
        world_bind b;
        const int size = world_match(w, &w->line[i], t, n, &b);
        if (!size || size <= best) continue;
        if (size < n && !t[size].space) continue;
        if (size > *parsed) *parsed = size;
        *s = before;
        if (!world_settle(w, s, w->line[i].event, &b, refused++ ? NULL : why)) continue;
        after = *s;
        best = size;
    }
    *s = after;
    return best;
}

/* Judges a story: text [size], which need not end with a NUL. */
WORLD_FN void world_check(const world *w, const char *text, size_t size, world_verdict *v)
{
    world_token t[WORLD_CHECK_TOKENS];
    world_state s;
    const int n = world_cut(w, text, size, t);
    int at = 0;
    memset(v, 0, sizeof *v);
    world_begin(&s, 0);
    while (at < n) {
        char why[WORLD_WHY] = "no sentence of this world";
        int parsed, step = world_read_sentence(w, &s, t + at, n - at, &parsed, why);
        const int good = step > 0;
        v->n_sentences++;
        if (parsed) v->n_parsed++;
        if (!good) {
            step = parsed ? parsed : world_sentence_end(w, t + at, n - at, text);
            v->n_false += parsed > 0;
            if (!v->why[0]) {
                v->bad_at = t[at].at;
                v->bad_size = t[at + step - 1].at + t[at + step - 1].size - v->bad_at;
                memcpy(v->why, why, sizeof why);
            }
        }
        at += step;
    }
    if (n <= 0) snprintf(v->why, sizeof v->why, n ? "too long" : "empty");
    v->consistent = !v->why[0];
}

#endif /* BITNET_WORLD_H */
