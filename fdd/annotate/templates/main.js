/* The page: its parts hang themselves in, then it begins. */
import { begin } from "./annotate.js";

begin();
