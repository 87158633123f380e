/**
 * Names for needles.
 *
 * @module
 */
import type { Random } from "./random.ts";

const ADJECTIVES =
  "able amber ancient arctic autumn azure bitter bold brave brief bright brisk broad bronze calm careful cheerful clean clear clever cold coral crimson crisp curious daring deep distant eager early eastern elder empty exact faint fair fancy fierce final firm flat fleet fond fresh frozen gentle giant gilded glad golden grand gray green happy hasty hidden hollow honest humble idle inner ivory jolly keen kind large late lazy light little lively lone loud lucky mellow merry mild misty modest narrow neat noble northern odd olive open pale patient plain proud quick quiet rapid rare rough round royal rustic scarlet secret sharp short silent silver simple sleepy slow small smooth snowy soft solid southern stable steady still strange strong sturdy subtle sudden sunny swift tall tender tidy tiny upper vast vivid warm western white wild windy wise young"
    .split(" ");

const NOUNS =
  "acorn anchor anvil apple arrow autumn badger bakery banner barley barrel basket beacon bell bench birch blanket blossom boat bonnet bottle boulder branch bridge bridle brook bucket button cabin camel candle canyon carpet castle cavern cedar cellar chapel cherry chimney circle clock cloud clover coach cottage cradle cricket crown current dagger daisy desert donkey dragon drum eagle ember engine falcon feather ferry fiddle field finch flame flower forest fountain fox garden gate glacier glove goblet grape gravel hammer harbor harvest hawk hazel helmet heron hill hollow honey horizon horse island ivy jacket jewel journey kettle kitchen ladder lagoon lamp lantern laurel leaf lemon library lily lizard maple marble market meadow mill mirror mountain needle nest oak ocean orchard otter owl palace paper parrot pebble pencil pepper pigeon pillow pine planet plum pocket pond poplar prairie quarry quilt rabbit raven ribbon river robin rocket root saddle sail salmon school shadow shell shepherd shield silk spark sparrow spring stable station stone storm stream summer sunset table temple thistle thunder timber tower trumpet tulip tunnel valley velvet village violin wagon walnut water willow window winter wolf"
    .split(" ");

/** Draws names such as `tall-lantern`, each once. */
export class Names {
  readonly #random: Random;
  readonly #used = new Set<string>();

  /** Starts with no name drawn; the choices come from `random`. */
  constructor(random: Random) {
    this.#random = random;
  }

  /** A name that was not drawn before. */
  draw(): string {
    for (;;) {
      let name = `${this.#random.pick(ADJECTIVES)}-${this.#random.pick(NOUNS)}`;
      // Beyond half of all pairs most draws would repeat: a further word makes room.
      if (this.#used.size > ADJECTIVES.length * NOUNS.length / 2) {
        name = `${this.#random.pick(ADJECTIVES)}-${name}`;
      }
      if (!this.#used.has(name)) {
        this.#used.add(name);
        return name;
      }
    }
  }
}
